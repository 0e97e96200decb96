"""XDP programs on interfaces by netlink, as `ip link` and xdp-loader have them: there until detached, without a pin.

Interfaces are those of the calling thread's network namespace (see netns.run_in). What is there is asked by
link.query(); a program that a link holds there is not to be moved by these.
"""

import errno
from typing import Literal, get_args

from hopline.kernel._libbpf import lib
from hopline.kernel.handle import check, last_message
from hopline.kernel.link import FLAGS, NOT_THE_DRIVER, Attached, interface_name, refusal
from hopline.kernel.program import Program

# offload: the device itself runs it, of which query() says hardware
Mode = Literal["auto", "native", "generic", "offload"]
MODES = get_args(Mode)
HOOKS: dict[Mode, str] = {"native": "native", "generic": "generic", "offload": "hardware"}

UPDATE_IF_NOEXIST = 1 << 0  # XDP_FLAGS_UPDATE_IF_NOEXIST of include/uapi/linux/if_link.h
NO_PROGRAM = -1


def attach(program: Program, ifindex: int, mode: Mode = "auto") -> Mode:
    """Attach where nothing is; the mode it runs in. auto tries the driver, then the kernel's generic hook.

    Refused when another program is there, KernelError for all else.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode}: give one of {', '.join(MODES)}")
    result, said = 0, ""
    attempts: tuple[Mode, ...] = ("native", "generic") if mode == "auto" else (mode,)
    for attempt in attempts:
        result = lib.hl_xdp_attach(ifindex, program.fd, FLAGS[HOOKS[attempt]] | UPDATE_IF_NOEXIST)
        said = last_message().removeprefix("Kernel error message: ")
        if result >= 0:
            return attempt
        if -result in NOT_THE_DRIVER:
            break
    raise refusal(f"attach xdp {program.name} to {interface_name(ifindex)}", -result, ifindex, mode, said)


def replace(program: Program, ifindex: int, old: Program, mode: Mode) -> bool:
    """Run `program` instead of `old`, in the mode that it runs in; no packet in between sees none.

    False if a link holds `old` there; Refused if another program is there by now, KernelError for all else. Nothing is
    changed then.
    """
    result = lib.hl_xdp_exchange(ifindex, program.fd, old.fd, FLAGS[HOOKS[mode]])
    lib.hl_message_clear()
    if result < 0 and result != -errno.EBUSY:
        asked = f"replace xdp {old.name} of {interface_name(ifindex)} by {program.name}"
        raise refusal(asked, -result, ifindex, mode)
    return bool(result >= 0)


def detach(ifindex: int, old: Program, mode: Mode) -> bool:
    """Take `old` off; False if a link holds it there, KernelError if it is not what runs in that mode."""
    result = lib.hl_xdp_exchange(ifindex, NO_PROGRAM, old.fd, FLAGS[HOOKS[mode]])
    if result == -errno.EBUSY:
        lib.hl_message_clear()
        return False
    check(result, f"detach xdp {old.name} from {interface_name(ifindex)}")
    return True


def mode_of(there: Attached) -> Mode:
    """The mode in which a program that query() found runs, in the words of `Mode`."""
    return next(mode for mode, hook in HOOKS.items() if hook == there.mode)
