"""What of services and decaps this host can carry out, and what to beware of where it can."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from hopline.config import Backend, Service
from hopline.daemon.balance.balance import Balance
from hopline.errors import InvalidInput
from hopline.features.balance import Reached, asked_for, check_mtu, mtu_warning
from hopline.kernel.netlink import query
from hopline.kernel.netlink.types import Address, Link

NO_REDIRECT = ("bridge", "vlan", "wireguard")
REMARKS_MOST = 5


class PossibleServices:
    """Asks the host about services; in a thread, since there may be many."""

    def __init__(self, balance: Balance, links: Mapping[int, Link], local: Collection[str]) -> None:
        self._balance = balance
        self._links = links
        self._by_name = {link.name: link for link in links.values()}
        self._local = local

    def wrong(self, services: Mapping[str, Service]) -> Iterator[tuple[str, InvalidInput]]:
        """Yield what cannot be of services that are added or changed, by name."""
        reached = self._reached(backend for service in services.values() for backend in service.backend)
        on_wire = any(service.own == "on-wire" for service in services.values())
        addresses = query.addresses() if on_wire else []  # once: there may be a thousand services
        for name, service in services.items():
            for problem in self._service(service, reached, addresses):
                yield name, problem

    def _reached(self, backends: Iterable[Backend]) -> Mapping[str, Reached]:
        # those that are in use are followed, so that they need not be asked for again
        hops = self._balance.balancer.hops
        known = hops.reached
        return {**known, **hops.look_up(set(map(asked_for, backends)) - known.keys(), self._links)}

    def _service(
        self, service: Service, reached: Mapping[str, Reached], addresses: list[Address]
    ) -> Iterator[InvalidInput]:
        if service.own == "on-wire":
            try:
                self._balance.balancer.wire.device_for(service, self._links, addresses)
            except InvalidInput as error:
                yield error
        told: set[tuple[str, int]] = set()
        for place, backend in enumerate(service.backend):
            where = f"backend[{place}]."
            try:
                self._backend(backend)
            except InvalidInput as error:
                yield error.within(where)
                continue
            way = self._way(backend, reached)
            if way is not None and (way.dev, way.mtu) not in told:
                told.add((way.dev, way.mtu))  # a hundred backends behind one device are one problem
                try:
                    check_mtu(service, backend, way.dev, way.mtu)
                except InvalidInput as error:
                    yield error

    def _backend(self, backend: Backend) -> None:
        if backend.address in self._local:
            detail = f"{backend.address} is this host's own address"
            raise InvalidInput("address", detail, "give another server's: packets to one's own leave by no device")
        if backend.dev is None:
            return
        link = self._by_name.get(backend.dev)
        if link is None or link.name == "lo":
            raise InvalidInput("dev", f"{backend.dev} is no device here", "`ip link` lists them")
        if not link.ethernet or link.kind in NO_REDIRECT:
            what = link.kind or "not an Ethernet device"
            raise InvalidInput("dev", f"{link.name} is {what}, which takes no redirect", "name the device below")

    def _way(self, backend: Backend, reached: Mapping[str, Reached]) -> Reached | None:
        way = reached.get(asked_for(backend))
        if backend.dev is not None and (way is None or way.dev != backend.dev):
            link = self._by_name[backend.dev]
            return Reached(link.name, None, None, link.mtu)
        return way

    def beware(self, service: Service, addresses: Collection[str] | None = None) -> list[str]:
        """Return what to beware of with a service's backends, all of them unless told which."""
        some = [backend for backend in service.backend if addresses is None or backend.address in addresses]
        reached = self._reached(service.backend)
        ways = (self._way(backend, reached) for backend in service.backend if backend not in some)
        others = {(way.dev, way.mtu) for way in ways if way is not None}
        mtus = [link.mtu for link in self._attached() if link.ethernet]
        clients = max(mtus, default=0)
        found: dict[tuple[str, int], str] = {}
        for backend in some:
            way = self._way(backend, reached)
            if way is None:
                found[backend.address, 0] = (
                    f"no route leads to backend {backend.address}: it takes nothing until one does"
                )
            elif (way.dev, way.mtu) in others:
                continue  # that was said before
            elif (remark := mtu_warning(service, backend, way.dev, way.mtu, clients)) is not None:
                found.setdefault((way.dev, way.mtu), remark)
        return _some(found.values())

    def _attached(self) -> list[Link]:
        indexes = list(self._balance.attachments.by_index)
        return [self._links[index] for index in indexes if index in self._links]


def _some(remarks: Iterable[str]) -> list[str]:
    """Return some remarks, and how many more there are."""
    told = list(remarks)
    more = len(told) - REMARKS_MOST
    return told if more <= 0 else [*told[:REMARKS_MOST], f"and {more} more of the kind"]
