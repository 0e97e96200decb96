"""Everything that can make a learned forwarding answer stale, as the kernel says it.

The sockets subscribe before the tables are read, so nothing is missed between. Routes have a socket of their own: a
storm of them overflows that one and costs a bump and a scan, not the tables of links and neighbours.
"""

import asyncio
import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from hopline.errors import KernelError
from hopline.kernel.netlink import handlers, query, wire
from hopline.kernel.netlink.routes import FlatteningRoutes
from hopline.kernel.netlink.types import (
    Batch,
    Event,
    Link,
    LinkChanged,
    LocalAddresses,
    LocalAddressesChanged,
    Neighbour,
    NeighbourChanged,
    Overflow,
    RouteChanged,
    key_of,
)

log = logging.getLogger("hopline")

# RTNLGRP_ of include/uapi/linux/rtnetlink.h: link, neigh, tc, addresses, rules, netconf, nexthop
_GROUPS = (1, 3, 4, 5, 9, 8, 19, 24, 25, 32)
_ROUTE_GROUPS = (7, 11)
_BUFFER = 32 << 20
_RETRIES, _RETRY_SECONDS = 20, 0.5
_BURST = 2000  # datagrams read before the event loop has its turn again


class Watch:
    """`async with Watch() as watch: async for batch in watch: …`, in the namespace of the thread that enters it.

    `links` by index, `neighbours` by (index, address), `local` and `routes` are kept current by the events; a batch
    is delivered when they already hold what it says. One reader at a time.
    """

    def __init__(self, receive_buffer: int = _BUFFER) -> None:
        """`receive_buffer` in bytes, for each socket."""
        self.links: dict[int, Link] = {}
        self.neighbours: dict[tuple[int, str], Neighbour] = {}
        self.local = LocalAddresses()
        self.routes = FlatteningRoutes()
        self.local_dirty = False
        self._receive_buffer = receive_buffer
        self._pending: dict[tuple[object, ...], Event] = {}
        self._ready = asyncio.Event()
        self._failure: KernelError | None = None
        self._retries = 0
        self._subscriptions: list[wire.Subscription] = []
        self._netlink: wire.Socket | None = None

    async def __aenter__(self) -> Self:
        try:
            self._open()
            self.resync()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """Waits for the next batch; KernelError when a socket failed."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        events = tuple(self._pending.values())
        self._pending.clear()
        self._ready.clear()
        return Batch(events, any(event.matters for event in events), any(event.policy for event in events))

    def close(self) -> None:
        """Unsubscribes; may be called twice."""
        for subscription in self._subscriptions:
            asyncio.get_running_loop().remove_reader(subscription.fileno())
            subscription.close()
        self._subscriptions.clear()
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def resync(self) -> None:
        """Reads links, neighbours and local addresses anew; routes become stale, for who needs them to scan."""
        assert self._netlink is not None, "the watch is not entered"
        self.links = {link.index: link for link in query.links(self._netlink)}
        self.neighbours = {(entry.index, entry.address): entry for entry in query.neighbours(None, self._netlink)}
        self.local = query.local_addresses(self._netlink)
        self.local_dirty = False
        self.routes.note_lost()

    def add(self, event: Event) -> None:
        """Queues an event, merged with one of the same key: what mattered once in a batch matters."""
        key = key_of(event)
        before = self._pending.pop(key, None)
        self._pending[key] = event if before is None else _merged(before, event)

    def _open(self) -> None:
        self._netlink = wire.Socket(wire.NETLINK_ROUTE)
        self._subscribe(wire.NETLINK_ROUTE, _GROUPS, "links, neighbours and rules", handlers.control)
        self._subscribe(wire.NETLINK_ROUTE, _ROUTE_GROUPS, "routes", handlers.routes)
        self._subscribe_if_there(wire.NETLINK_NETFILTER, (7,), "nftables", handlers.nftables)
        self._subscribe_if_there(wire.NETLINK_XFRM, (4,), "xfrm policies", handlers.xfrm)
        try:
            with wire.Socket(wire.NETLINK_GENERIC) as generic:
                group = wire.GenericFamily(generic, "netdev").groups["mgmt"]
        except (KernelError, KeyError):
            return  # a kernel before 6.3 does not tell
        self._subscribe_if_there(wire.NETLINK_GENERIC, (group,), "device features", handlers.netdev)

    def _subscribe_if_there(
        self, protocol: int, groups: tuple[int, ...], source: str, handler: handlers.Handler
    ) -> None:
        try:
            self._subscribe(protocol, groups, source, handler)
        except KernelError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOENT, errno.EINVAL):
                raise  # without the protocol the kernel has nothing of it that could change

    def _subscribe(self, protocol: int, groups: tuple[int, ...], source: str, handler: handlers.Handler) -> None:
        subscription = wire.Subscription(protocol, groups, self._receive_buffer)
        self._subscriptions.append(subscription)
        loop = asyncio.get_running_loop()
        loop.add_reader(subscription.fileno(), self._reader(subscription, source, handler))

    def _reader(self, subscription: wire.Subscription, source: str, handler: handlers.Handler) -> Callable[[], None]:
        def read() -> None:
            try:
                overflow = False
                for _ in range(_BURST):
                    size = subscription.receive()
                    if size == 0:
                        break
                    if size < 0:
                        overflow = True
                        continue
                    handler(self, subscription.view, size)
                if overflow:
                    self._overflowed(source)
                if self.local_dirty:
                    self._read_local()
            except Exception as error:
                self._mistrust(source, error)
            if self._pending or self._failure:
                self._ready.set()

        return read

    def _mistrust(self, source: str, error: Exception) -> None:
        """Something of `source` could not be read, so anything may have changed: say so, and read all anew soon."""
        log.warning("netlink events of %s: %s: reading everything anew", source, error)
        self._retries += 1
        if self._retries > _RETRIES:
            self._failure = error if isinstance(error, KernelError) else KernelError(f"watch {source}", errno.EIO)
        else:
            self.add(Overflow(source, policy=True))
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._again, source)

    def _again(self, source: str) -> None:
        if self._netlink is None:
            return  # closed meanwhile
        try:
            self.resync()
        except KernelError as error:
            self._mistrust(source, error)
        else:
            self._retries = 0
            self.add(Overflow(source, policy=True))
        self._ready.set()

    def _overflowed(self, source: str) -> None:
        if source == "routes":
            self.routes.note_lost()
            self.local_dirty = True
        else:
            self.resync()
        self.add(Overflow(source, policy=True))

    def _read_local(self) -> None:
        self.local_dirty = False
        old = self.local
        self.local = query.local_addresses(self._netlink)
        if self.local != old:
            before, after = old.addresses | old.prefixes, self.local.addresses | self.local.prefixes
            self.add(LocalAddressesChanged(after - before, before - after))


def _merged(before: Event, event: Event) -> Event:
    matters, policy = before.matters or event.matters, before.policy or event.policy
    match before, event:
        case RouteChanged(count=count), RouteChanged():
            return replace(event, matters=matters, policy=policy, count=count + event.count)
        case LocalAddressesChanged(), LocalAddressesChanged():
            added = (before.added - event.removed) | event.added
            removed = (before.removed - event.added) | event.removed
            return LocalAddressesChanged(added, removed, matters=matters, policy=policy)
        case LinkChanged(old=old), LinkChanged():
            return replace(event, matters=matters, policy=policy, old=old)
        case NeighbourChanged(old=old), NeighbourChanged():
            return replace(event, matters=matters, policy=policy, old=old)
    return replace(event, matters=matters, policy=policy)
