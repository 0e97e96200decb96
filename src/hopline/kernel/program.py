"""Loaded programs: what the kernel says about them, and runs of them on a packet of ours (BPF_PROG_TEST_RUN)."""

from dataclasses import dataclass
from pathlib import Path

from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import Handle, check, open_pin

# enum bpf_prog_type of include/uapi/linux/bpf.h
SCHED_CLS = 3
XDP = 6
LWT_IN = 10
LWT_OUT = 11
LWT_XMIT = 12
LWT_SEG6LOCAL = 19

CONTEXTS = {XDP: 1, SCHED_CLS: 2, LWT_IN: 2, LWT_OUT: 2, LWT_XMIT: 2, LWT_SEG6LOCAL: 2}
# room for headers that a program pushes in front of the packet
GROWTH = 512


@dataclass(frozen=True, slots=True)
class TestRun:
    """One BPF_PROG_TEST_RUN: the program's return value, the packet it left and ns per repetition."""

    __test__ = False

    retval: int
    data: bytes
    duration_ns: int


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """struct bpf_prog_info: `loaded_ns` since boot; run time and count only grow with kernel.bpf_stats_enabled.

    `gpl`: its licence lets it call what is for the GPL only; the kernel keeps no more of it. `device`: the index of the
    interface that runs it, where it was offloaded.
    """

    id: int
    name: str
    type: int
    tag: str
    xlated_bytes: int
    jited_bytes: int
    map_ids: tuple[int, ...]
    loaded_ns: int
    run_time_ns: int
    run_count: int
    uid: int
    verified_instructions: int
    gpl: bool
    device: int
    btf_id: int


class Program(Handle):
    """A program in the kernel. `name` is the C function's, cut to 15 characters when reached by id or pin."""

    what = "program"

    def __init__(self, fd: int, name: str = "") -> None:
        """Takes over `fd`."""
        self.fd = fd
        info = self.info()
        self.id = info.id
        self.type = info.type
        self.tag = info.tag
        self.name = name or info.name
        self.what = f"program {self.name}"

    @classmethod
    def from_id(cls, program_id: int) -> "Program":
        """The loaded program with this id; KernelError ENOENT if there is none."""
        return cls(check(lib.bpf_prog_get_fd_by_id(program_id), f"open program id {program_id}"))

    @classmethod
    def from_pin(cls, path: str | Path) -> "Program":
        """The program pinned at `path`."""
        program = cls(open_pin(path, "prog"))
        program.pinned = Path(path)
        return program

    def info(self) -> ProgramInfo:
        """What the kernel says about this program now."""
        info, map_ids = ffi.new("struct bpf_prog_info *"), ffi.new("uint32_t[256]")
        info.nr_map_ids, info.map_ids = 256, int(ffi.cast("uintptr_t", map_ids))
        size = ffi.new("uint32_t *", ffi.sizeof("struct bpf_prog_info"))
        check(lib.bpf_obj_get_info_by_fd(self.fd, info, size), f"read {self.what}")
        gpl, device = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        check(lib.hl_program_info_more(self.fd, gpl, device), f"read {self.what}")
        return ProgramInfo(
            id=info.id,
            name=ffi.string(info.name).decode(),
            type=info.type,
            tag=bytes(info.tag).hex(),
            xlated_bytes=info.xlated_prog_len,
            jited_bytes=info.jited_prog_len,
            map_ids=tuple(map_ids[0 : min(info.nr_map_ids, 256)]),
            loaded_ns=info.load_time,
            run_time_ns=info.run_time_ns,
            run_count=info.run_cnt,
            uid=info.created_by_uid,
            verified_instructions=info.verified_insns,
            gpl=bool(gpl[0]),
            device=device[0],
            btf_id=info.btf_id,
        )

    def test_run(
        self,
        data: bytes | bytearray | memoryview,
        *,
        repeat: int = 1,
        ifindex: int = 0,
        rx_queue: int = 0,
        mark: int = 0,
        out_size: int | None = None,
    ) -> TestRun:
        """Run on `data`, a frame of at least 14 octets, in the calling thread's network namespace.

        `ifindex` is the interface the packet seems to come from (0: lo); enter its namespace first (netns.run_in).
        Of a frame larger than a page the program sees the first buffer, as with xdp.frags. `out_size` is the room for
        the packet that leaves. `mark` reaches programs on routes only. With repeat > 1 nothing restores the packet in
        between.
        """
        packet = bytes(data)
        room = len(packet) + GROWTH if out_size is None else out_size
        out = ffi.new("char[]", max(room, 1))
        context = CONTEXTS.get(self.type, 0) if ifindex or rx_queue or mark else 0
        source = ffi.from_buffer(packet)
        run = ffi.new(
            "struct hl_test_run *",
            {
                "data": source,
                "size": len(packet),
                "out": out,
                "out_size": room,
                "repeat": repeat,
                "context": context,
                "ifindex": ifindex,
                "rx_queue": rx_queue,
                "mark": mark,
            },
        )
        check(
            lib.hl_test_run(self.fd, run),
            f"test-run {self.name} on {len(packet)} bytes",
            "needs 14 bytes or more and an interface of this namespace",
        )
        retval = int(ffi.cast("int32_t", run.retval))
        return TestRun(retval, bytes(ffi.buffer(out, min(run.out_size, room))), run.duration)


def has_helper(program_type: int, helper: int) -> bool:
    """Whether this kernel lets programs of this type call that helper (numbers of include/uapi/linux/bpf.h)."""
    return bool(check(lib.hl_probe_helper(program_type, helper), f"probe helper {helper}") > 0)


def program_type(number: int) -> str:
    """The name of a type of enum bpf_prog_type, as `xdp`; "" where the section's name said none (0)."""
    name = ffi.string(lib.hl_program_type_name(number)).decode()
    return "" if number == 0 else name or f"type {number}"


def map_type(number: int) -> str:
    """The name of a type of enum bpf_map_type, as `lru_hash`."""
    return ffi.string(lib.hl_map_type_name(number)).decode() or f"type {number}"
