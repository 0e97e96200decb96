"""What on this host would keep Hopline from working or from being fast, without the daemon."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hopline.errors import HoplineError
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import DeviceFeatures, all_features
from hopline.kernel.netlink.policy import Policy, PolicySnapshot
from hopline.kernel.netlink.traps import traps
from hopline.kernel.netlink.types import Link

Level = Literal["ok", "warn", "fail"]

# without CAP_PERFMON the verifier refuses pointers on the stack, which the pipeline has
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_BPF": 39, "CAP_PERFMON": 38}
_CAP_SYS_ADMIN = 21  # stands for all but the first
_XDP_PROGRAM = 6  # BPF_PROG_TYPE_XDP
_FIB_LOOKUP = 69  # BPF_FUNC_fib_lookup, which learning needs


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how bad, what it is about (`kernel`, `rights`, an interface, …), and what was found and mends it."""

    level: Level
    subject: str
    text: str


def examine(interfaces: list[str] | None = None) -> list[Finding]:
    """The host and each named interface (None: all but loopback) of this namespace; NotFound for an unknown name."""
    links = [link for link in query.links() if link.name != "lo"]
    if interfaces is not None:
        links = [query.link(name) for name in interfaces]
    return [*_host(), *_interfaces(links)]


def _host() -> Iterator[Finding]:
    rights = _rights()
    yield rights
    yield _btf()
    yield _bpffs()
    yield _xdp() if rights.level == "ok" else Finding("fail", "xdp", "not tried: it needs the rights above")
    yield from _forwarding()


def _rights() -> Finding:
    held = _effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if not missing or (held >> _CAP_SYS_ADMIN & 1 and "CAP_NET_ADMIN" not in missing):
        return Finding("ok", "rights", "may load and attach programs")
    return Finding("fail", "rights", f"{' and '.join(missing)} missing: run as root, or grant them by systemd")


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _btf() -> Finding:
    if Path("/sys/kernel/btf/vmlinux").exists():
        return Finding("ok", "kernel", f"Linux {os.uname().release} describes its types (btf)")
    text = "no /sys/kernel/btf/vmlinux: it works, but types are not checked: use a kernel with CONFIG_DEBUG_INFO_BTF"
    return Finding("warn", "kernel", text)


def _bpffs() -> Finding:
    for line in Path("/proc/thread-self/mounts").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[2] == "bpf" and fields[1] == "/sys/fs/bpf":
            return Finding("ok", "bpffs", "mounted at /sys/fs/bpf")
    return Finding("warn", "bpffs", "not mounted: hopline serve will, or mount -t bpf bpf /sys/fs/bpf")


def _xdp() -> Finding:
    try:
        from hopline.kernel.needs import lacks
        from hopline.kernel.program import has_helper

        reason, able = lacks(), has_helper(_XDP_PROGRAM, _FIB_LOOKUP)
    except (HoplineError, ImportError, OSError) as error:
        return Finding("fail", "xdp", f"no xdp program can be loaded: {error}")
    if reason:
        return Finding("fail", "xdp", f"Linux {os.uname().release} cannot run the pipeline: {reason}")
    if able:
        return Finding("ok", "xdp", "programs load, and may ask the fib")
    return Finding("fail", "xdp", "the kernel refuses an xdp program: it needs CONFIG_BPF_SYSCALL")


def _forwarding() -> Iterator[Finding]:
    for name, path in (("ipv4", "net/ipv4/ip_forward"), ("ipv6", "net/ipv6/conf/all/forwarding")):
        try:
            on = Path("/proc/sys", path).read_text(encoding="ascii").strip() != "0"
        except OSError:
            yield Finding("warn", name, "the kernel has it not, so nothing of it is learned")
            continue
        mend = f"sysctl -w {path.replace('/', '.')}=1"
        off = f"forwarding is off, so only what is entered by hand is forwarded: {mend}"
        yield Finding("ok", name, "forwarding is on") if on else Finding("warn", name, off)


def _interfaces(links: list[Link]) -> Iterator[Finding]:
    features: dict[int, DeviceFeatures] = {}
    policy: PolicySnapshot | None = None
    try:
        features = all_features()
        policy = Policy().snapshot()
    except HoplineError as error:
        yield Finding("fail", "interfaces", f"not all can be told: {error}: run as root")
    for link in links:
        yield from _interface(link, features.get(link.index), policy)


def _interface(link: Link, features: DeviceFeatures | None, policy: PolicySnapshot | None) -> Iterator[Finding]:
    if not link.ethernet:
        yield Finding("warn", link.name, "is no Ethernet device, so no xdp step works on it: use another interface")
        return
    if features is not None:
        yield _mode(link, features)
        yield _target(link, features)
    try:
        found = traps(link.index)
    except HoplineError as error:
        found = [str(error)]
    for trap in found:
        yield Finding("warn", link.name, trap.removeprefix(f"{link.name}: "))
    if policy is not None:
        yield from _learning(link, policy)


def _learning(link: Link, policy: PolicySnapshot) -> Iterator[Finding]:
    for family in (4, 6):
        reasons = policy.forbids(link.index, family)
        if reasons:
            yield Finding("warn", link.name, f"learning of ipv{family} off: {'; '.join(reasons)}")
        else:
            yield Finding("ok", link.name, f"learning of ipv{family} allowed")


def _mode(link: Link, features: DeviceFeatures) -> Finding:
    if features.native_xdp:
        return Finding("ok", link.name, f"runs xdp in its driver{_guess(features)}")
    return Finding("warn", link.name, "its driver runs no xdp: --mode generic works, slower")


def _target(link: Link, features: DeviceFeatures) -> Finding:
    if features.redirect_target:
        return Finding("ok", link.name, f"takes packets redirected to it{_guess(features)}")
    if features.generic_target and link.kind == "":
        text = "takes redirected packets from interfaces in generic mode; from native ones only if its driver can"
        return Finding("warn", link.name, f"{text}, which shows once hopline is attached to it")
    if features.generic_target:
        return Finding("warn", link.name, "takes redirected packets only from interfaces in generic mode")
    return Finding("warn", link.name, "takes no redirected packets: what leaves by it goes the kernel's way")


def _guess(features: DeviceFeatures) -> str:
    return "" if features.known else " (by its kind: this kernel does not tell)"
