"""XDP programs on interfaces by bpf_link: attached as long as the link's descriptor or a pin of it lives.

Interfaces are those of the calling thread's network namespace (see netns.run_in).
"""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hopline.errors import KernelError, Refused
from hopline.kernel._libbpf import ffi, lib
from hopline.kernel.handle import Handle, check, open_pin, portable
from hopline.kernel.program import Program

Mode = Literal["auto", "native", "generic"]

LINK_TYPE_XDP = 6
# XDP_FLAGS_* and XDP_ATTACHED_* of include/uapi/linux/if_link.h
FLAGS = {"generic": 1 << 1, "native": 1 << 2, "hardware": 1 << 3}
# these say something about the interface or the caller, not about what the driver can do
NOT_THE_DRIVER = frozenset(
    (errno.EBUSY, errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENODEV, errno.ENOENT, errno.EBADF, errno.ENOMEM)
)


@dataclass(frozen=True, slots=True)
class Attached:
    """What an interface runs: `mode` native, generic or hardware; `link_id` None when attached by netlink.

    To a process without CAP_SYS_ADMIN the kernel tells mode and id only: name and tag are "", and link_id is None.
    """

    mode: str
    program_id: int
    name: str
    tag: str
    link_id: int | None

    @property
    def known_as(self) -> str:
        """The program's id, and its name if that is known, as `id 39, xdp_pass`."""
        return f"id {self.program_id}, {self.name}" if self.name else f"id {self.program_id}"


class XdpLink(Handle):
    """One program on one interface. update() replaces the program without a packet in between that sees none."""

    what = "xdp link"

    def __init__(self, fd: int) -> None:
        """Takes over `fd`."""
        self.fd = fd
        self.id, kind, _, self._ifindex = _link_info(fd)
        if kind != LINK_TYPE_XDP:
            raise KernelError(f"open link id {self.id}: not an xdp link", errno.EINVAL, "name another link")
        self.what = f"xdp link id {self.id}"
        self._mode = ""

    @classmethod
    def attach(cls, program: Program, ifindex: int, mode: Mode = "auto") -> "XdpLink":
        """Attach; auto tries the driver first and the kernel's generic hook where the driver cannot.

        Refused when another program is there, KernelError for all else.
        """
        asked = f"attach xdp {program.name} to {interface_name(ifindex)}"
        if mode not in ("auto", "native", "generic"):
            raise ValueError(f"mode {mode}: give auto, native or generic")
        for attempt in ("native", "generic") if mode == "auto" else (mode,):
            result = lib.hl_xdp_link_create(program.fd, ifindex, FLAGS[attempt])
            if result >= 0:
                link = cls(result)
                link._mode = attempt
                return link
            if -result in NOT_THE_DRIVER:
                break
        raise refusal(asked, -result, ifindex, mode)

    @classmethod
    def from_pin(cls, path: str | Path) -> "XdpLink":
        """The link pinned at `path`."""
        link = cls(open_pin(path, "link"))
        link.pinned = Path(path)
        return link

    @classmethod
    def from_id(cls, link_id: int) -> "XdpLink":
        """The link with this id; KernelError ENOENT if there is none."""
        return cls(check(lib.bpf_link_get_fd_by_id(link_id), f"open link id {link_id}"))

    @property
    def ifindex(self) -> int:
        """The interface, in the namespace it was attached in; 0 when it is gone or the link was detached."""
        return _link_info(self.fd)[3]

    @property
    def program_id(self) -> int:
        """Id of the program that runs now."""
        return _link_info(self.fd)[2]

    @property
    def mode(self) -> str:
        """native or generic, as attached; for a link reached by pin or id asked of the interface; "" if gone."""
        if not self._mode and self._ifindex:
            found = query(self._ifindex)
            if found is not None and found.program_id == self.program_id:
                self._mode = found.mode
        return self._mode

    def update(self, program: Program) -> None:
        """Run `program` from now on, atomically; KernelError ENOLINK when the interface is gone."""
        check(lib.hl_link_update(self.fd, program.fd), f"update {self.what} to program {program.name}")

    def detach(self) -> None:
        """Take the program off the interface, also while pins or other descriptors of the link live."""
        result = lib.bpf_link_detach(self.fd)
        # the interface may have gone first, and the program with it
        if result not in (-errno.EINVAL, -errno.ENOLINK, -errno.ENODEV) or self.ifindex:
            check(result, f"detach {self.what}")


def detach_pin(path: Path) -> None:
    """Detach the link pinned at `path`, its interface there or gone, and remove the pin."""
    with XdpLink.from_pin(path) as link:
        link.detach()
        link.unpin()


def pinned_by(directory: Path, program_id: int) -> str | None:
    """The name of the instance below `directory` whose pinned link carries this program; None if there is none."""
    for pin in directory.glob("*/link_*"):
        try:
            with XdpLink.from_pin(pin) as link:
                carried = link.program_id
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            continue  # removed since
        if carried == program_id:
            return pin.parent.name
    return None


def remove_pins(directory: Path) -> None:
    """Remove an instance from the kernel: detach the links (pins named link_*), remove all pins and `directory`.

    The pin that says what made the maps goes last, so that what is left of a removal cut short is still known by it.
    """
    for pin in list(directory.glob("link_*")):
        detach_pin(pin)
    for pin in sorted(directory.iterdir(), key=lambda pin: pin.name == "identity"):
        if pin.is_dir():
            remove_pins(pin)
        else:
            pin.unlink()
    directory.rmdir()


def query(ifindex: int) -> Attached | None:
    """What is attached to an interface of the calling thread's namespace; None if nothing."""
    mode, native, generic, hardware = (ffi.new("uint32_t *") for _ in range(4))
    result = lib.hl_xdp_query(ifindex, mode, native, generic, hardware)
    check(result, f"ask interface {ifindex} for its xdp program")
    carried = {"native": native[0], "generic": generic[0], "hardware": hardware[0]}
    name = next((name for name, program_id in carried.items() if program_id), None)
    if name is None:
        return None
    found = carried[name]
    try:
        with Program.from_id(found) as program:
            title, tag = program.name, program.tag
    except KernelError as error:
        if error.errno == errno.EPERM:
            return Attached(name, found, "", "", None)
        if error.errno != errno.ENOENT:
            raise
        return None  # detached since
    links = links_of(found, ifindex)
    return Attached(name, found, title, tag, links[0] if links else None)


def links_of(program_id: int, ifindex: int) -> list[int]:
    """Ids of the XDP links that carry this program on an interface of this index, in any namespace.

    Empty without CAP_SYS_ADMIN.
    """
    found, current = [], ffi.new("uint32_t *")
    while lib.bpf_link_get_next_id(current[0], current) == 0:
        fd = lib.bpf_link_get_fd_by_id(current[0])
        if fd < 0:
            continue  # gone since
        with Handle() as handle:
            handle.fd = fd
            link_id, kind, carried, where = _link_info(fd)
        if kind == LINK_TYPE_XDP and carried == program_id and where == ifindex:
            found.append(link_id)
    return found


def _link_info(fd: int) -> tuple[int, int, int, int]:
    """Id, type, program id and interface index of a link."""
    fields = [ffi.new("uint32_t *") for _ in range(4)]
    check(lib.hl_link_info(fd, *fields), "read link")
    link_id, kind, program_id, ifindex = (field[0] for field in fields)
    return link_id, kind, program_id, ifindex


def refusal(asked: str, number: int, ifindex: int, mode: str, said: str = "") -> KernelError | Refused:
    """What to raise when attaching in `mode` failed with the errno `number`: Refused where another program is there.

    `said` is what the driver said to it.
    """
    there = None
    if number in (errno.EBUSY, errno.EEXIST):
        there = query(ifindex)
    if there is not None:
        return Refused(f"{asked}: another program ({there.known_as}) is attached: unload it or use --replace")
    hints = {
        errno.ENODEV: "no such interface in this namespace",
        errno.EPERM: "run as root or with CAP_BPF and CAP_NET_ADMIN",
        errno.EOPNOTSUPP: {
            "native": "the driver has no native xdp; use mode generic",
            "offload": "the device runs no programs itself; use mode native or generic",
        }.get(mode, ""),
        errno.EINVAL: "the driver or its settings (mtu, queues, lro) do not allow it; try mode generic",
        errno.ERANGE: "the driver or its settings (mtu, queues, lro) do not allow it; try mode generic",
    }
    if said and number not in (errno.ENODEV, errno.EPERM, errno.EOPNOTSUPP):
        todo = f"{said}; try mode generic" if mode == "native" else said
    else:
        todo = hints.get(number, "try mode generic" if mode == "native" else "")
    return KernelError(asked, portable(number), todo)


def interface_name(ifindex: int) -> str:
    """The interface's name in the calling thread's namespace, or its number in words."""
    try:
        return socket.if_indextoname(ifindex)
    except (OSError, OverflowError):
        return f"interface {ifindex}"
