"""The verbs of the nouns `service`, `backend` and `decap`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hopline.client.query import flag, path
from hopline.config import Backend, Decap, Service, canonical_host, service_name
from hopline.config.service import Encap, Protocol
from hopline.daemon.protocol import BackendChanged, DecapRow, DrainState, ServiceChanged, ServiceRow

if TYPE_CHECKING:
    from hopline.client import Client


class ServiceVerbs:
    """The verbs of the noun `service`; settings are the fields of hopline.Service."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def add(
        self,
        name: str,
        vip: str,
        port: str | int,
        protocol: Protocol,
        *,
        backend: Sequence[Backend] = (),
        **settings: Any,
    ) -> ServiceChanged:
        """Serve a VIP by these backends, or by those that are added later; Refused if the name is there already."""
        body = Service(name, vip, port, protocol, backend=tuple(backend), **settings)
        return self._client.ask("POST", "/services", body=body, kind=ServiceChanged)

    def set(self, name: str, **settings: Any) -> ServiceChanged:
        """Change what is given; None takes `local` or `own_dev` away."""
        return self._client.ask("PATCH", _service(name), body=settings, kind=ServiceChanged)

    def delete(self, name: str) -> None:
        """Stop serving: the flows of the service end."""
        self._client.ask("DELETE", _service(name), kind=msgspec.Raw)

    def show(
        self, name: str | None = None, *, stats: bool = False, flows: bool = False, ring: bool = False
    ) -> list[ServiceRow]:
        """Return all services, or the one named; NotFound if there is none of that name.

        Counters are there with `stats`, what is remembered with `flows`, slots and shares with `ring`; else None.
        """
        query = {"stats": flag(stats), "flows": flag(flows), "ring": flag(ring)}
        if name is None:
            return self._client.ask("GET", "/services", query, kind=list[ServiceRow])
        return [self._client.ask("GET", _service(name), query, kind=ServiceRow)]


class BackendVerbs:
    """The verbs of the noun `backend`: the servers of a service."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def add(
        self,
        service: str,
        address: str,
        *,
        weight: int = 1,
        via: str | None = None,
        dst_mac: str | None = None,
        dev: str | None = None,
        drained: bool = False,
    ) -> BackendChanged:
        """Let a server take its share of the flows; Refused if the service has it already."""
        return self.put(service, [Backend(address, weight, via, dst_mac, dev, drained)])

    def put(self, service: str, backends: Sequence[Backend]) -> BackendChanged:
        """Add several, all or nothing, in one change of the ring."""
        # one alone goes as itself, so that an error names its field without a place in a list
        body: object = backends[0] if len(backends) == 1 else list(backends)
        return self._client.ask("POST", f"{_service(service)}/backends", body=body, kind=BackendChanged)

    def set(self, service: str, address: str, **settings: Any) -> BackendChanged:
        """Change what is given: weight, via, dst_mac, dev; None takes one of the last three away."""
        return self._client.ask("PATCH", _backend(service, address), body=settings, kind=BackendChanged)

    def delete(self, service: str, address: str, *, grace: float | None = None) -> BackendChanged:
        """Remove a backend; its flows stay with it for `grace` seconds, the service's `idle` unless told."""
        return self._client.ask("DELETE", _backend(service, address), {"grace": grace}, kind=BackendChanged)

    def drain(self, service: str, address: str) -> BackendChanged:
        """Let a backend take no new flow and keep those it has."""
        return self._client.ask("POST", f"{_backend(service, address)}/drain", kind=BackendChanged)

    def undrain(self, service: str, address: str) -> BackendChanged:
        """Let a backend take flows again, as its weight says; Refused where that is 0."""
        return self._client.ask("POST", f"{_backend(service, address)}/undrain", kind=BackendChanged)

    def drained(self, service: str, address: str, *, since: float = 60.0) -> DrainState:
        """Return what a backend has left; `flows` are those seen in the last `since` seconds."""
        query = {"address": address, "since": f"{since:.3f}"}
        return self._client.ask("GET", f"{_service(service)}/drained", query, kind=DrainState)

    def show(self, service: str | None = None) -> list[ServiceRow]:
        """Return all services, or the one named, with all that is known of their backends."""
        return self._client.service.show(service, stats=True, flows=True, ring=True)


class DecapVerbs:
    """The verbs of the noun `decap`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def add(self, local: str, from_: str = "any", *, encap: Encap = "ipip", gue_port: int | None = None) -> DecapRow:
        """Take out what comes encapsulated from `from_`, a prefix or any; Refused if that is so already."""
        body = Decap(local, from_, encap) if gue_port is None else Decap(local, from_, encap, gue_port)
        return self._client.ask("POST", "/decaps", body=body, kind=DecapRow)

    def delete(self, local: str, from_: str = "any", *, encap: Encap = "ipip") -> None:
        """Stop that; NotFound if it is not so."""
        self._client.ask("DELETE", "/decaps", {"local": local, "from": from_, "encap": encap}, kind=msgspec.Raw)

    def show(self) -> list[DecapRow]:
        """Return all entries."""
        return self._client.ask("GET", "/decaps", kind=list[DecapRow])


def _service(name: str) -> str:
    return path("services", service_name(name))


def _backend(service: str, address: str) -> str:
    return path("services", service_name(service), "backends", canonical_host(address))
