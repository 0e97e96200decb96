"""What programs cost, counted by the kernel: runs and their time, for as long as somebody holds the switch."""

from hopline.kernel._libbpf import lib
from hopline.kernel.handle import Handle, check

RUN_TIME = 0  # BPF_STATS_RUN_TIME of enum bpf_stats_type, include/uapi/linux/bpf.h


class RunStatistics(Handle):
    """While one is open, every program of the host counts its runs and ns (ProgramInfo): about 20 ns a run."""

    what = "run statistics"

    def __init__(self) -> None:
        self.fd = check(lib.bpf_enable_stats(RUN_TIME), "switch run statistics on")
