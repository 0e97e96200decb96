"""Programs and chains that the kernel's own forwarding path runs and XDP would skip: netfilter, xfrm, tc.

Sources: include/uapi/linux/netfilter/nf_tables.h, nfnetlink_hook.h; include/uapi/linux/xfrm.h; pkt_sched.h, bpf.h.
"""

import ctypes
import errno
import os
import socket
import struct
from collections import defaultdict
from dataclasses import dataclass, field

from hopline.errors import KernelError
from hopline.kernel.netlink import tc
from hopline.kernel.netlink.wire import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NETLINK_XFRM,
    Socket,
    attribute,
    attribute_list,
    attributes,
    number,
    text,
    thread_proc,
)

BOTH = (4, 6)

_NFPROTO = {1: "inet", 2: "ip", 5: "netdev", 10: "ip6"}
_FAMILIES = {1: BOTH, 2: (4,), 5: BOTH, 10: (6,)}
_INET_HOOKS = {0: "prerouting", 2: "forward", 4: "postrouting"}
_INET_INGRESS = 5
_NETDEV_INGRESS, _NETDEV_EGRESS = 0, 1
_NFT_GETTABLE, _NFT_GETCHAIN = (10 << 8) | 1, (10 << 8) | 4
_HOOK_GET = 12 << 8
# always hooked where the module runs, and looking only at packets that a secmark rule labelled, which is a chain itself
_SECURITY_MODULES = ("apparmor_", "selinux_", "smack_")
_DORMANT = 1  # NFT_TABLE_F_DORMANT: its chains are unhooked

_CLSACT_IN, _CLSACT_OUT, _INGRESS = 0xFFFFFFF2, 0xFFFFFFF3, 0xFFFF0000
# queueing only reorders; these drop, delay or shape on purpose
_SHAPERS = {"tbf", "htb", "hfsc", "cbq", "netem", "cbs", "etf", "taprio", "cake", "qfq", "drr", "prio", "ets"}
_BPF_PROG_QUERY, _TCX_INGRESS, _TCX_EGRESS = 16, 46, 47
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Reasons:
    """Texts by what they concern: `all` by family, `ingress` by interface name or index and family."""

    all: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    ingress: dict[tuple[int, int], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, text: str, families: tuple[int, ...] = BOTH, index: int | None = None) -> None:
        """`index` of the only interface it concerns, None for all."""
        for family in families:
            into = self.all[family] if index is None else self.ingress[(index, family)]
            if text not in into:
                into.append(text)


def netfilter(reasons: Reasons, indexes: dict[str, int]) -> None:
    """nftables base chains, legacy xtables, and whatever else is hooked where the kernel can list hooks."""
    try:
        with Socket(NETLINK_NETFILTER) as netlink:
            _nftables(netlink, reasons, indexes)
            _other_hooks(netlink, reasons)
    except KernelError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT):
            raise
    for name, family in (("ip_tables_names", 4), ("ip6_tables_names", 6)):
        try:
            with open(thread_proc(name), encoding="ascii") as listed:
                tables = sorted(listed.read().split())
        except OSError:
            continue
        if tables:
            program = "iptables" if family == 4 else "ip6tables"
            reasons.add(f"{program} (legacy) table {' '.join(tables)}", (family,))


def _nftables(netlink: Socket, reasons: Reasons, indexes: dict[str, int]) -> None:
    nfgenmsg = bytes(4)  # family unspecified, version 0
    dormant = set()
    for _, body in netlink.dump(_NFT_GETTABLE, nfgenmsg, asked="list nftables tables"):
        found = attributes(body, 4)
        if number(found.get(2), ">") & _DORMANT:
            dormant.add((body[0], found[1]))
    for _, body in netlink.dump(_NFT_GETCHAIN, nfgenmsg, asked="list nftables chains"):
        found = attributes(body, 4)
        if 4 not in found or (body[0], found[1]) in dormant or body[0] not in _NFPROTO:
            continue
        hook = attributes(found[4])
        table, chain = text(found[1]), text(found[3])
        _base_chain(reasons, indexes, body[0], hook, f"nftables chain {_NFPROTO[body[0]]} {table}/{chain}")


def _base_chain(reasons: Reasons, indexes: dict[str, int], family: int, hook: dict[int, bytes], what: str) -> None:
    place = number(hook.get(1), ">")
    devices = [text(hook[3])] if 3 in hook else []
    devices += [text(name) for _, name in attribute_list(hook.get(4, b"")) if text(name) not in devices]
    on_ingress = place == (_NETDEV_INGRESS if family == 5 else _INET_INGRESS)
    if on_ingress and family in (1, 5):
        for device in devices:
            if device in indexes:
                reasons.add(f"{what} (ingress of {device})", BOTH, indexes[device])
    elif family == 5 and place == _NETDEV_EGRESS:
        for device in devices:
            reasons.add(f"{what} (egress of {device})")
    elif family != 5 and place in _INET_HOOKS:
        reasons.add(f"{what} ({_INET_HOOKS[place]})", _FAMILIES[family])


def _other_hooks(netlink: Socket, reasons: Reasons) -> None:
    """Hooks that are no nftables chain (conntrack, IPVS, netfilter BPF programs), where nfnetlink_hook exists."""
    for protocol, family in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        nfproto = 2 if family == 4 else 10
        for hook, name in _INET_HOOKS.items():
            body = struct.pack("=BBH", nfproto, 0, 0) + attribute(1, struct.pack(">I", hook))
            try:
                entries = netlink.dump(_HOOK_GET, body, asked=f"list netfilter hooks of family {protocol}")
            except KernelError:
                return  # CONFIG_NETFILTER_NETLINK_HOOK is off, or nothing was ever hooked there
            for _, answer in entries:
                found = attributes(answer, 4)
                if 6 in found and number(attributes(found[6]).get(2), ">", 1) == 1:
                    continue  # NFNL_HOOK_TYPE_NFTABLES: listed as a chain already
                function = text(found.get(4, b"")) or "unnamed"
                if function.startswith(_SECURITY_MODULES):
                    continue
                reasons.add(f"netfilter hook {function} ({name})", (family,))


def xfrm(reasons: Reasons) -> None:
    """IPsec policies for what is forwarded or leaves, and default policies that block."""
    try:
        with Socket(NETLINK_XFRM) as netlink:
            for _, body in netlink.dump(0x15, bytes(64), asked="list xfrm policies"):
                _xfrm_policy(reasons, body)
            for answer in netlink.request(0x28, bytes(4), asked="read the xfrm default policy"):
                if answer[1] == 1 or answer[2] == 1:  # xfrm_userpolicy_default: in, fwd, out; 1 blocks
                    reasons.add("xfrm default policy block")
    except KernelError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _xfrm_policy(reasons: Reasons, body: bytes) -> None:
    """xfrm_userpolicy_info: selector of 56 bytes, two lifetimes of 96, priority, index, direction at 160."""
    direction = body[160]
    if direction not in (1, 2):  # in is for the host itself, from 3 on of one socket
        return
    family = number(body[40:42])
    width = 16 if family == socket.AF_INET6 else 4
    known = family in (socket.AF_INET, socket.AF_INET6)
    destination = f"{socket.inet_ntop(family, body[:width])}/{body[42]}" if known else "any"
    families = ((6,) if family == socket.AF_INET6 else (4,)) if known else BOTH
    reasons.add(f"xfrm policy to {destination} dir {'out' if direction == 1 else 'fwd'}", families)


def traffic_control(reasons: Reasons, names: dict[int, str]) -> None:
    """tc filters at ingress of a device, at egress of any, shapers, and BPF programs attached by tcx."""
    with Socket(NETLINK_ROUTE) as netlink:
        qdiscs = netlink.dump(38, struct.pack("=BxxxiIII", 0, 0, 0, 0, 0), asked="list qdiscs")
        for _, body in qdiscs:
            _family, index, handle, _parent, _info = struct.unpack_from("=BxxxiIII", body)
            kind, name = text(attributes(body, 20).get(1, b"")), names.get(index, str(index))
            if kind == "clsact":
                if _filters(netlink, index, _CLSACT_IN):
                    reasons.add(f"tc filter at ingress of {name}", BOTH, index)
                if _filters(netlink, index, _CLSACT_OUT):
                    reasons.add(f"tc filter at egress of {name}")
            elif kind == "ingress":
                if _filters(netlink, index, _INGRESS):
                    reasons.add(f"tc filter at ingress of {name}", BOTH, index)
            elif kind in _SHAPERS:
                reasons.add(f"tc qdisc {kind} at egress of {name}")
            elif handle and _filters(netlink, index, handle):
                reasons.add(f"tc filter at egress of {name}")
    for index, name in names.items():
        if _tcx(index, _TCX_INGRESS):
            reasons.add(f"tcx program at ingress of {name}", BOTH, index)
        if _tcx(index, _TCX_EGRESS):
            reasons.add(f"tcx program at egress of {name}")


def _filters(netlink: Socket, index: int, parent: int) -> bool:
    body = struct.pack("=BxxxiIII", 0, index, 0, parent, 0)
    try:
        answers = netlink.dump(46, body, asked=f"list tc filters of interface {index}")
        return any(not _passes_all_else(answer) for _, answer in answers)
    except KernelError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT):
            return False  # a qdisc without classes, or it went meanwhile
        raise


def _passes_all_else(body: bytes) -> bool:
    """Whether it is Hopline's own, which takes answers to its checks alone; or the head of a list of BPF filters."""
    handle = struct.unpack_from("=I", body, 8)[0]
    said = attributes(body, 20)
    if text(said.get(1, b"")) != "bpf":
        return False
    return not handle or text(attributes(said.get(2, b"")).get(7, b"")).startswith(tc.OURS)


def _tcx(index: int, attach_type: int) -> int:
    """How many programs are attached by tcx, which no tc dump shows (Linux 6.6); 0 where the kernel has none."""
    query = ctypes.create_string_buffer(struct.pack("=IIII", index, attach_type, 0, 0) + bytes(48), 64)
    number_of = _SYS_BPF.get(os.uname().machine)
    if number_of is None or _libc.syscall(number_of, _BPF_PROG_QUERY, query, 64) != 0:
        return 0
    return int(struct.unpack_from("=I", query, 24)[0])
