"""What of this host, in this network namespace, matters to a real server behind a director that tunnels."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hopline.config import Decap
from hopline.kernel import netns
from hopline.kernel.netlink import query
from hopline.kernel.netlink.defaults import DefaultRoute, default_route
from hopline.kernel.netlink.fou import gue_ports
from hopline.kernel.netlink.types import Address, Link

_CONF = Path("/proc/sys/net/ipv4/conf")
_SETTINGS = ("rp_filter", "arp_ignore", "arp_announce")
_MODULES = ("ipip", "ip6_tunnel", "fou")


@dataclass(frozen=True, slots=True)
class Hopline:
    """An instance that answers: the inode of its namespace, its entries of decap, the devices it is attached to.

    `command` is how a shell reaches it.
    """

    netns: int
    decaps: Sequence[Decap] = ()
    attached: Sequence[str] = ()
    command: str = "hopline"


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is. `settings`: by device, "all" among them; a dictionary by family has 4 and 6."""

    links: Sequence[Link]
    addresses: Sequence[Address]
    local: frozenset[str]  # addresses whose packets this host takes in
    settings: dict[str, dict[str, int]]
    defaults: dict[int, DefaultRoute | None]
    gue: dict[int, frozenset[int]] = field(default_factory=lambda: {4: frozenset(), 6: frozenset()})
    modules: frozenset[str] = frozenset()
    hopline: Hopline | None = None
    forwarding: dict[int, bool] = field(default_factory=lambda: {4: False, 6: False})


def look(hopline: Hopline | None = None) -> Facts:
    """Return what there is now; of an instance only if it is in this namespace."""
    links = query.links()
    return Facts(
        links=links,
        addresses=query.addresses(),
        local=query.local_addresses().addresses,
        settings={name: _settings(name) for name in ["all", *(link.name for link in links)]},
        defaults={family: default_route(family) for family in (4, 6)},
        gue=gue_ports(),
        modules=_modules(),
        hopline=hopline if hopline is not None and hopline.netns == netns.inode() else None,
        forwarding={4: _is_on("net/ipv4/ip_forward"), 6: _is_on("net/ipv6/conf/all/forwarding")},
    )


def _settings(device: str) -> dict[str, int]:
    return {name: _number(_CONF / device / name) for name in _SETTINGS}


def _is_on(path: str) -> bool:
    return _number(Path("/proc/sys", path)) != 0


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # a kernel without it, or a device that went


def _modules() -> frozenset[str]:
    """Return those of the modules of tunnels that this kernel has, loaded or not."""
    directory = Path("/lib/modules", os.uname().release)
    text = ""
    for name in ("modules.dep", "modules.builtin"):
        try:
            text += (directory / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # a kernel without modules
    return frozenset(name for name in _MODULES if f"/{name}.ko" in text)
