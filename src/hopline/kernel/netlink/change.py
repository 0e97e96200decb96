"""Setting links, addresses, routes and neighbours, for labs and tests: pyroute2 with errors of one line."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hopline.errors import KernelError, NotFound
from hopline.kernel import netns
from hopline.kernel.netlink import query

MAIN_TABLE = 254
_NO_SUCH = {3, 19}  # ESRCH, ENODEV


def create_veth(
    name: str,
    peer: str,
    *,
    namespace: str | None = None,
    peer_namespace: str | None = None,
    mac: bytes | None = None,
    peer_mac: bytes | None = None,
) -> None:
    """A pair, either end in a named namespace (None: here), down; KernelError when a name is taken."""
    far: dict[str, Any] = {"ifname": peer}
    if peer_mac is not None:
        far["address"] = peer_mac.hex(":")
    if peer_namespace is not None:
        far["net_ns_fd"] = str(netns.path_of(peer_namespace))
    near: dict[str, Any] = {"ifname": name, "kind": "veth", "peer": far}
    if mac is not None:
        near["address"] = mac.hex(":")

    def create() -> None:
        _ask(f"create veth {name}", lambda route: route.link("add", **near))

    create() if namespace is None else netns.run_in(namespace, create)


def delete_link(name: str) -> None:
    """Removes a virtual device; a veth takes its peer along."""
    index = query.link(name).index
    _ask(f"delete {name}", lambda route: route.link("del", index=index))


def set_link(
    name: str,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    mac: bytes | None = None,
    master: str | int | None = None,
    new_name: str | None = None,
) -> None:
    """Changes what is given; `master` a name, or 0 to leave it."""
    fields: dict[str, Any] = {"index": query.link(name).index}
    if up is not None:
        fields["state"] = "up" if up else "down"
    if mtu is not None:
        fields["mtu"] = mtu
    if mac is not None:
        fields["address"] = mac.hex(":")
    if master is not None:
        fields["master"] = query.link(master).index if isinstance(master, str) else master
    if new_name is not None:
        fields["ifname"] = new_name
    _ask(f"set {name}", lambda route: route.link("set", **fields))


def add_address(name: str, cidr: str) -> None:
    """Adds `address/length`; IPv6 without duplicate address detection, so that it is usable at once."""
    fields = _address(name, cidr)
    if ":" in cidr:
        fields["flags"] = 0x02  # IFA_F_NODAD
    _ask(f"add {cidr} to {name}", lambda route: route.addr("add", **fields))


def delete_address(name: str, cidr: str) -> None:
    """Removes `address/length`."""
    fields = _address(name, cidr)
    _ask(f"delete {cidr} of {name}", lambda route: route.addr("del", **fields))


def replace_route(
    destination: str, *, via: str | None = None, dev: str | None = None, table: int = MAIN_TABLE, mtu: int = 0
) -> None:
    """Sets the route to a prefix (`default` needs `via`, whose family it takes)."""
    fields = _route(destination, via, dev, table)
    if mtu:
        fields["metrics"] = {"mtu": mtu}
    asked = f"set the route to {destination}" + (f" on {dev}" if dev else "")
    _ask(asked, lambda route: route.route("replace", **fields))


def delete_route(destination: str, *, via: str | None = None, dev: str | None = None, table: int = MAIN_TABLE) -> None:
    """Removes a route; NotFound when there is none."""
    fields = _route(destination, via, dev, table)
    _ask(f"delete the route to {destination}", lambda route: route.route("del", **fields))


def replace_neighbour(dev: str, address: str, mac: bytes, state: str = "permanent") -> None:
    """Sets a neighbour's MAC; `state` as ip-neighbour(8) names it."""
    fields = {"ifindex": query.link(dev).index, "dst": address, "lladdr": mac.hex(":"), "state": state}
    _ask(f"set neighbour {address} of {dev}", lambda route: route.neigh("replace", **fields))


def delete_neighbour(dev: str, address: str) -> None:
    """Forgets a neighbour; NotFound when it is not known."""
    fields = {"ifindex": query.link(dev).index, "dst": address}
    _ask(f"delete neighbour {address} of {dev}", lambda route: route.neigh("del", **fields))


def _address(name: str, cidr: str) -> dict[str, Any]:
    address, _, length = cidr.partition("/")
    fields: dict[str, Any] = {"index": query.link(name).index, "address": address}
    fields["prefixlen"] = int(length or (128 if ":" in address else 32))
    return fields


def _route(destination: str, via: str | None, dev: str | None, table: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"dst": destination, "table": table}
    if via is not None:
        fields["gateway"] = via
    if dev is not None:
        fields["oif"] = query.link(dev).index
    if ":" in destination or ":" in (via or ""):
        fields["family"] = 10
    return fields


def _ask(asked: str, ask: Callable[[IPRoute], object]) -> None:
    """Runs one request; pyroute2 cannot run under an event loop, so there it gets a thread (of the same namespace)."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with IPRoute() as route:
                ask(route)
        except NetlinkError as error:
            failure.append(_translated(asked, error.code))
        except OSError as error:
            failure.append(KernelError(asked, error.errno or 5))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    if failure:
        raise failure[0]


def _translated(asked: str, code: int) -> Exception:
    if code in _NO_SUCH:
        return NotFound(f"{asked}: it is not there: see ip link, ip route, ip neighbour")
    return KernelError(asked, code)
