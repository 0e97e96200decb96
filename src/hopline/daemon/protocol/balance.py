"""What the API answers of services, their backends, and decap."""

from typing import Literal

import msgspec

from hopline.config import Decap, Service

BackendState = Literal["up", "down", "draining", "leaving", "unresolved", "unchecked"]


class RingState(msgspec.Struct, frozen=True):
    """The slots of a service's ring, by state."""

    slots: int
    open: int
    residual: int
    closed: int


class FlowState(msgspec.Struct, frozen=True):
    """What happened with a service's flow memory since its start, and how many flows are remembered now."""

    remembered: int
    refused: int  # there was no room
    evicted: int  # flows of one segment that gave way
    silent: int  # forgotten, for they were silent for longer than the service's `idle`
    now: int


class BackendRow(msgspec.Struct, frozen=True, kw_only=True):
    """One backend as it is; what was not asked for is None."""

    address: str
    weight: int
    state: BackendState  # unchecked: it has no health check, and is taken to be up
    slots: int | None = None  # of the ring that new flows go by to it
    share: float | None = None  # of the ring, 0 to 1
    reason: str = ""  # why it is down or unresolved, or what its last check found
    dev: str | None = None  # the way to it, as far as it is known
    next_hop: str | None = None
    mac: str | None = None
    packets: int | None = None
    bytes: int | None = None  # of frames as they came in
    connections: int | None = None  # TCP: SYNs
    remembered: int | None = None  # flows that the flow table has


class ServiceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One service: what is wanted, and what came of it; what was not asked for is None."""

    service: Service
    vip_local: bool  # the VIP is an address of this host
    ring: RingState | None = None
    flows: FlowState | None = None
    backends: list[BackendRow] = []  # in the order of the service's, then those that are leaving
    problems: list[str] = []  # one line for each thing that keeps it from serving as it should


class ServiceChanged(msgspec.Struct, frozen=True):
    """The answer to adding or setting a service: what is wanted, what came of it, and what to beware of."""

    service: Service
    state: ServiceRow
    warnings: list[str] = []


class BackendChanged(msgspec.Struct, frozen=True):
    """The answer to a change of backends: those of it that are there now, and what to beware of."""

    service: str
    backends: list[BackendRow]
    warnings: list[str] = []


class DrainState(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend has left."""

    address: str
    state: BackendState
    flows: int  # remembered, and seen in the time that was asked about
    remembered: int  # in all
    slots: int  # in which it is `now` or, of open ones, `before`: 0 and no flow seen is drained
    packets: int  # since it was added
    connections: int


class DecapRow(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of decap, and what was taken out by it."""

    decap: Decap
    packets: int = 0
    bytes: int = 0
    problems: list[str] = []  # such as an address that is not this host's
