"""What may be changed of a service and of a backend where it is: the fields that are given. Pure."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from hopline.config.backend import BACKEND_FIELDS, Backend
from hopline.config.service import (
    SERVICE_FIELDS,
    Affinity,
    AllDown,
    CheckVia,
    Encap,
    IcmpEcho,
    Own,
    Protocol,
    Service,
    checked_service,
)
from hopline.errors import InvalidInput, Problems


class ServiceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a service is to be; what is not given stays, and None takes `local` or `own_dev` away."""

    vip: str | UnsetType = UNSET
    port: str | int | UnsetType = UNSET
    protocol: Protocol | UnsetType = UNSET
    encap: Encap | UnsetType = UNSET
    gue_port: int | UnsetType = UNSET
    local: str | UnsetType | None = UNSET
    ring: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    affinity: Affinity | UnsetType = UNSET
    idle: int | UnsetType = UNSET
    own: Own | UnsetType = UNSET
    own_dev: str | UnsetType | None = UNSET
    check: str | UnsetType = UNSET
    check_via: CheckVia | UnsetType = UNSET
    interval: float | UnsetType = UNSET
    rise: int | UnsetType = UNSET
    fall: int | UnsetType = UNSET
    expect: str | UnsetType = UNSET
    all_down: AllDown | UnsetType = UNSET
    icmp_echo: IcmpEcho | UnsetType = UNSET

    def of(self, service: Service) -> Service:
        """Return the service with this change, checked; InvalidInput names what cannot be."""
        return checked_service(msgspec.structs.replace(service, **given(self)))


class BackendChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backend is to be; what is not given stays, and None takes a field away."""

    weight: int | UnsetType = UNSET
    via: str | UnsetType | None = UNSET
    dst_mac: str | UnsetType | None = UNSET
    dev: str | UnsetType | None = UNSET
    drained: bool | UnsetType = UNSET

    def of(self, backend: Backend) -> Backend:
        """Return the backend with this change, not yet checked: `with_backends` does that beside its service."""
        return msgspec.structs.replace(backend, **given(self))


def checked_change(change: ServiceChange | BackendChange) -> Any:
    """Return a change of which each field is right by itself; what goes together is seen where it is made."""
    checks = SERVICE_FIELDS if isinstance(change, ServiceChange) else BACKEND_FIELDS
    problems = Problems()
    for name, value in given(change).items():
        if value is not None and name in checks:
            try:
                checks[name](value, name)
            except InvalidInput as error:
                problems.add(error)
    problems.refuse()
    return change


def given(change: ServiceChange | BackendChange) -> dict[str, Any]:
    """Return the fields that are given; InvalidInput where none is."""
    fields = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not UNSET}
    if not fields:
        raise InvalidInput("body", "changes nothing", f"give one of {', '.join(change.__struct_fields__)}")
    return fields


def with_backends(service: Service, *backends: Backend) -> Service:
    """Return the service with these backends added, or in the place of those of the same addresses; checked.

    A problem of one of them has its field's own name where it is alone, else `backend[…].` before it.
    """
    by_address = {backend.address: backend for backend in service.backend}
    by_address |= {backend.address: backend for backend in backends}
    try:
        return checked_service(msgspec.structs.replace(service, backend=tuple(by_address.values())))
    except InvalidInput as error:
        if len(backends) != 1:
            raise
        first, place = error.problems[0], list(by_address).index(backends[0].address)
        raise InvalidInput(first.field.removeprefix(f"backend[{place}]."), first.detail, first.hint) from None


def without_backend(service: Service, address: str) -> Service:
    """Return the service without one backend."""
    rest = tuple(backend for backend in service.backend if backend.address != address)
    return msgspec.structs.replace(service, backend=rest)
