"""The services and decap of the double in front_double: an intent, and answers that are made up."""

from hopline.config import checked_service, with_backends, without_backend
from hopline.daemon.protocol import (
    BackendChanged,
    BackendRow,
    DecapRow,
    DrainState,
    FlowState,
    RingState,
    ServiceChanged,
    ServiceRow,
)
from hopline.errors import InvalidInput, NotFound, Refused
from hopline.intent import NOUNS


def merged(noun, entries):
    return lambda have: type(have)({**have.entries, noun: {**have.of(noun), **entries}})


def without(noun, keys):
    return lambda have: type(have)({**have.entries, noun: {k: v for k, v in have.of(noun).items() if k not in keys}})


class BalanceDouble:
    """What ServiceDouble does of balance; it records changes as the rest does."""

    def start_balance(self):
        self.services_by_name = {}
        self.decap_entries = {}
        self.leaving = []  # service, address and grace of each backend that was removed

    def check_services(self, want, merge):
        """What is wrong with a document's services beside those that are there."""
        for noun in NOUNS:
            if noun.has_together and want.of(noun.name):
                self._together(noun.name, want.of(noun.name), placed=True, beside=merge)

    def _together(self, name, new, placed=False, beside=True):
        noun = next(noun for noun in NOUNS if noun.name == name)
        for key, error in noun.together({**(self._wanted().of(name) if beside else {}), **new}, new):
            field = f"{name}[{list(new).index(key)}].{error.field}" if placed else error.field
            raise InvalidInput(field, error.detail, error.hint, key=key)

    def _named(self, name):
        if name not in self.services_by_name:
            raise NotFound(f"service {name}: no such service: `hopline service show` lists them")
        return self.services_by_name[name]

    def _backend(self, name, address):
        service = self._named(name)
        for backend in service.backend:
            if backend.address == address:
                return service, backend
        raise NotFound(f"backend {name} {address}: no such backend: `hopline backend show {name}` lists them")

    def _keep(self, what, service):
        self._record(what, merged("service", {service.name: service}))
        return service

    async def service_add(self, service):
        self._check()
        if service.name in self.services_by_name:
            raise Refused(f"service {service.name} exists: use `hopline service set`")
        self._together("service", {service.name: service})
        self._keep(f"service add {service.name}", service)
        return ServiceChanged(service, self.service_row(service), ["no neighbour answers for 192.168.33.12"])

    async def service_set(self, name, change):
        service = change.of(self._named(name))
        self._together("service", {name: service})
        self._keep(f"service set {name}", service)
        return ServiceChanged(service, self.service_row(service))

    async def service_del(self, name):
        self._named(name)
        self._record(f"service del {name}", without("service", [name]))

    async def services(self, name, *, stats, flows, ring):
        self._check()
        found = (
            [self._named(name)] if name is not None else sorted(self.services_by_name.values(), key=lambda s: s.name)
        )
        return [self.service_row(service, stats, flows, ring) for service in found]

    def service_row(self, service, stats=False, flows=False, ring=False):
        return ServiceRow(
            service=service,
            vip_local=False,
            ring=RingState(service.ring, 0, 0, service.ring) if ring else None,
            flows=FlowState(7, 0, 0, 0, 3) if flows else None,
            backends=[self.backend_row(service, backend, stats, flows, ring) for backend in service.backend],
        )

    def backend_row(self, service, backend, stats=False, flows=False, ring=False):
        total = sum(each.share for each in service.backend)
        slots = service.ring * backend.share // total if total else 0
        return BackendRow(
            address=backend.address,
            weight=backend.weight,
            state="draining" if not backend.share else "unchecked" if service.check == "none" else "up",
            slots=slots if ring else None,
            share=slots / service.ring if ring else None,
            dev="enp0s9",
            next_hop=backend.via or backend.address,
            mac=backend.dst_mac or "08:00:27:f2:cb:f9",
            packets=70 if stats else None,
            bytes=6860 if stats else None,
            connections=7 if stats else None,
            remembered=3 if flows else None,
        )

    def _changed(self, service, addresses):
        rows = [self.backend_row(service, each) for each in service.backend if each.address in addresses]
        return BackendChanged(service.name, rows)

    async def backend_add(self, service, backends):
        self._check()
        there = {backend.address for backend in self._named(service).backend}
        for backend in backends:
            if backend.address in there:
                raise Refused(f"backend {service} {backend.address} exists: use `hopline backend set`")
        new = with_backends(self._named(service), *backends)
        addresses = [backend.address for backend in backends]
        return self._changed(self._keep(f"backend add {service} {addresses[0]}", new), addresses)

    async def backend_set(self, service, address, change):
        old, backend = self._backend(service, address)
        new = with_backends(old, change.of(backend))
        return self._changed(self._keep(f"backend set {service} {address}", new), [address])

    async def backend_del(self, service, address, grace):
        old, _ = self._backend(service, address)
        self._keep(f"backend del {service} {address}", checked_service(without_backend(old, address)))
        self.leaving.append((service, address, grace))
        return BackendChanged(service, [])

    async def backend_drain(self, service, address, drained):
        old, backend = self._backend(service, address)
        if not drained and backend.weight == 0:
            todo = f"`hopline backend set {service} {address} --weight N`"
            raise Refused(f"backend undrain {service} {address}: its weight is 0: {todo}")
        new = with_backends(old, type(backend)(**{**_fields(backend), "drained": drained}))
        verb = "drain" if drained else "undrain"
        return self._changed(self._keep(f"backend {verb} {service} {address}", new), [address])

    async def backend_drained(self, service, address, since):
        _, backend = self._backend(service, address)
        flows = min(3, int(since))
        state = "draining" if not backend.share else "unchecked"
        return DrainState(address=address, state=state, flows=flows, remembered=3, slots=0, packets=70, connections=7)

    async def decap_add(self, decap):
        self._check()
        if decap.key in self.decap_entries:
            raise Refused(f"decap {decap.key} exists")
        self._together("decap", {decap.key: decap})
        self._record(f"decap add {decap.key}", merged("decap", {decap.key: decap}))
        return DecapRow(decap=decap, problems=[f"{decap.local} is not an address of this host"])

    async def decap_del(self, keys):
        for key in keys:
            if key not in self.decap_entries:
                raise NotFound(f"decap {key}: no such entry: `hopline decap show` lists them")
        self._record(f"decap del {keys[0]}", without("decap", keys))

    async def decaps(self):
        self._check()
        return [DecapRow(decap=self.decap_entries[key], packets=7, bytes=686) for key in sorted(self.decap_entries)]


def _fields(entry):
    return {name: getattr(entry, name) for name in entry.__struct_fields__}
