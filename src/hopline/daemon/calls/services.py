"""What the API asks of services, backends and decap."""

import asyncio
from collections.abc import Sequence

import msgspec

from hopline.config import (
    Backend,
    BackendChange,
    Decap,
    Service,
    ServiceChange,
    with_backends,
    without_backend,
)
from hopline.daemon.core import Core
from hopline.daemon.protocol import BackendChanged, BackendRow, DecapRow, DrainState, ServiceChanged, ServiceRow
from hopline.daemon.sessions import sessions_on
from hopline.errors import NotFound, Refused
from hopline.intent import Change, Delta, one_entry


class BalanceCalls(Core):
    """Of the nouns `service`, `backend` and `decap`."""

    def _service(self, name: str) -> Service:
        service = self.balance.wanted.get(name)
        if service is None:
            raise NotFound(f"service {name}: there is none of that name: `hopline service show` lists them")
        return service

    def _backend(self, service: Service, address: str) -> Backend:
        found = next((backend for backend in service.backend if backend.address == address), None)
        if found is None:
            hint = f"`hopline backend show {service.name}` lists them"
            raise NotFound(f"backend {address}: service {service.name} has none of that address: {hint}")
        return found

    async def _change(self, before: Service | None, after: Service | None, what: str) -> None:
        one = after or before
        assert one is not None
        await self.changes.make(one_entry("service", one.name, before, after), what)

    # services

    async def service_add(self, service: Service) -> ServiceChanged:
        """Serve a VIP."""
        async with self.changes.lock:
            if service.name in self.balance.wanted:
                raise Refused(f"service {service.name} exists: use set")
            warnings = await self._beware(service)
            await self._change(None, service, f"service add {service.name}")
            warnings += await self.changes.possible.beware(service)
            return await self._service_changed(service, warnings)

    async def service_set(self, name: str, change: ServiceChange) -> ServiceChanged:
        """Change what is given."""
        async with self.changes.lock:
            old = self._service(name)
            new = change.of(old)
            warnings = await self._beware(new) if _takes_more(old, new) else []
            if (new.ring, new.seed) != (old.ring, old.seed):
                warnings.append("flows that were there may have moved: another ring or seed gives them other slots")
            await self._change(old, new, f"service set {name}")
            if (new.vip, new.encap) != (old.vip, old.encap):
                warnings += await self.changes.possible.beware(new)
            return await self._service_changed(new, warnings)

    async def service_del(self, name: str) -> None:
        """Stop serving."""
        async with self.changes.lock:
            await self._change(self._service(name), None, f"service del {name}")

    async def services(self, name: str | None, *, stats: bool, flows: bool, ring: bool) -> list[ServiceRow]:
        """Return all services, or the one named."""
        names = sorted(self.balance.wanted) if name is None else [self._service(name).name]
        checks = {each: self.health.rows(each) for each in names}
        attached = bool(self.attachments.by_index)
        rows = await asyncio.to_thread(
            lambda: self.service_rows.rows(names, checks, stats=stats, flows=flows, ring=ring, attached=attached)
        )
        if name is not None and not rows:
            self._service(name)  # it went away meanwhile
        return rows

    async def _service_changed(self, service: Service, warnings: list[str]) -> ServiceChanged:
        (row,) = await self.services(service.name, stats=False, flows=False, ring=True)
        return ServiceChanged(service, row, warnings)

    async def _beware(self, service: Service) -> list[str]:
        """Return what others use of a VIP; Refused where its check cannot be made here."""
        if (why := self.health.refusal(service)) is not None:
            raise Refused(f"service {service.name}: {why}")
        if "tcp" not in service.protocols:
            return []
        used = await asyncio.to_thread(sessions_on, service.vip)
        first, last = service.ports
        taken = sorted(port for port in used if first <= port <= last)
        if not taken:
            return []
        ports = ", ".join(map(str, taken[:5]))
        return [f"vip {service.vip} is an address of this host that has connections on port {ports}: they end here"]

    # backends

    async def _backend_changed(self, name: str, addresses: Sequence[str], warnings: list[str]) -> BackendChanged:
        (row,) = await self.services(name, stats=False, flows=False, ring=True)
        rows: list[BackendRow] = [backend for backend in row.backends if backend.address in addresses]
        return BackendChanged(name, rows, warnings)

    async def backend_add(self, service: str, backends: Sequence[Backend]) -> BackendChanged:
        """Add backends, all or nothing."""
        async with self.changes.lock:
            old = self._service(service)
            there = {backend.address for backend in old.backend}
            for backend in backends:
                if backend.address in there:
                    raise Refused(f"backend {backend.address} of service {service} exists: use set")
            new = with_backends(old, *backends)
            addresses = [backend.address for backend in new.backend if backend.address not in there]
            what = addresses[0] if len(addresses) == 1 else f"{len(addresses)} backends"
            await self._change(old, new, f"backend add {service} {what}")
            return await self._backend_changed(service, addresses, await self.changes.possible.beware(new, addresses))

    async def backend_set(self, service: str, address: str, change: BackendChange) -> BackendChanged:
        """Change what is given of a backend."""
        async with self.changes.lock:
            old = self._service(service)
            new = with_backends(old, change.of(self._backend(old, address)))
            await self._change(old, new, f"backend set {service} {address}")
            return await self._backend_changed(service, [address], [])

    async def backend_del(self, service: str, address: str, grace: float | None) -> BackendChanged:
        """Remove a backend; its flows stay with it for a while."""
        async with self.changes.lock:
            old = self._service(service)
            self._backend(old, address)
            graces = self.balance.balancer.graces
            if grace is not None:
                graces[service, address] = grace
            try:
                await self._change(old, without_backend(old, address), f"backend del {service} {address}")
            finally:
                graces.pop((service, address), None)
            return await self._backend_changed(service, [address], [])

    async def backend_drain(self, service: str, address: str, drained: bool) -> BackendChanged:
        """Let a backend take no new flow, or take flows again."""
        async with self.changes.lock:
            old = self._service(service)
            backend = self._backend(old, address)
            if not drained and not backend.weight:
                hint = f"`hopline backend set {service} {address} --weight N`"
                raise Refused(f"undrain {address}: its weight is 0: give it another: {hint}")
            if backend.drained != drained:
                new = with_backends(old, msgspec.structs.replace(backend, drained=drained))
                await self._change(old, new, f"backend {'drain' if drained else 'undrain'} {service} {address}")
            return await self._backend_changed(service, [address], [])

    async def backend_drained(self, service: str, address: str, since: float) -> DrainState:
        """Return what a backend has left."""
        self._service(service)
        check = self.health.rows(service).get(address)
        state = await asyncio.to_thread(self.service_rows.drained, service, address, since, check)
        if state is None:
            raise NotFound(f"backend {address}: service {service} has none of that address, nor flows of one")
        return state

    # decap

    async def decap_add(self, decap: Decap) -> DecapRow:
        """Take packets out that come so encapsulated."""
        async with self.changes.lock:
            if decap.key in self.balance.decaps.wanted:
                raise Refused(f"decap {decap.key} exists: it is accepted already")
            await self.changes.make(one_entry("decap", decap.key, None, decap), f"decap add {decap.key}")
            return next(row for row in await self.decaps() if row.decap.key == decap.key)

    async def decap_del(self, keys: Sequence[str]) -> None:
        """Stop that, all or nothing."""
        async with self.changes.lock:
            there = self.balance.decaps.wanted
            for key in keys:
                if key not in there:
                    raise NotFound(f"decap {key}: there is no such entry: `hopline decap show` lists them")
            change = Change({"decap": Delta(before={key: there[key] for key in keys})})
            await self.changes.make(change, f"decap del {keys[0] if len(keys) == 1 else f'{len(keys)} entries'}")

    async def decaps(self) -> list[DecapRow]:
        """Return all entries, in the order of their keys."""
        return await asyncio.to_thread(self.service_rows.decaps)


def _takes_more(old: Service, new: Service) -> bool:
    """Return whether a service takes other packets than before, or is checked otherwise."""
    fields = ("vip", "port", "protocol", "check", "check_via")
    return any(getattr(old, name) != getattr(new, name) for name in fields)
