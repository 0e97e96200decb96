"""What stands behind the API: the owner of intent and kernel state, as the doors know it."""

from collections.abc import Sequence
from typing import Protocol

from hopline.config import (
    Backend,
    BackendChange,
    Decap,
    Forward,
    Interface,
    Mode,
    Origin,
    Service,
    ServiceChange,
)
from hopline.daemon.protocol.balance import BackendChanged, DecapRow, DrainState, ServiceChanged, ServiceRow
from hopline.daemon.protocol.rows import (
    Applied,
    Confirmed,
    ForwardAnswer,
    ForwardRow,
    HistoryRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    Status,
)
from hopline.explain import Batch, Explanation, Question, Tallied
from hopline.intent import Wanted


class ServiceProtocol(Protocol):
    """The owner of intent and kernel state.

    Every argument has already been checked and is in canonical spelling (`hopline.config`). Methods raise NotFound,
    Refused, InvalidInput or KernelError with one line that can be shown; what else they raise is a bug and becomes
    a 500. A change that has returned is durable; one that raised has changed nothing.
    """

    async def status(self) -> Status:
        """Return everything `hopline status` shows."""
        ...

    async def interface_add(self, interface: Interface, replace: bool) -> InterfaceAdded:
        """Attach to a device; `replace` takes it from another program. Refused if it is already an interface."""
        ...

    async def interface_set(self, name: str, mode: Mode | None, bypass_policy: bool | None) -> InterfaceAdded:
        """Change what is not None; NotFound if `name` is no interface of Hopline's."""
        ...

    async def interface_del(self, name: str) -> None:
        """Detach and forget; NotFound if `name` is no interface of Hopline's."""
        ...

    async def interfaces(self) -> list[InterfaceState]:
        """Return all interfaces of the intent."""
        ...

    async def forward_put(self, forwards: Sequence[Forward], replace: bool) -> None:
        """Enter all or nothing; destinations are distinct. Without `replace` an existing one is Refused."""
        ...

    async def forward_del(self, destinations: Sequence[str]) -> None:
        """Remove operator entries, all or nothing; NotFound if one is absent."""
        ...

    async def forwards(self, to: str | None, origin: Origin | None, limit: int | None) -> list[ForwardRow]:
        """Return entries, of both origins unless told; at most `limit`."""
        ...

    async def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies in use."""
        ...

    async def forward_get(self, address: str, in_dev: str | None) -> ForwardAnswer:
        """Ask the shipped program about a packet to `address` that came in by `in_dev` (None: any interface)."""
        ...

    async def explain(self, question: Question) -> Explanation:
        """Ask the shipped program about one packet; NotFound if `in_dev` is no interface of Hopline's."""
        ...

    async def explain_batch(self, batch: Batch) -> Tallied:
        """Ask the shipped program about many packets that come in by one interface."""
        ...

    async def forward_flush(self) -> int:
        """Forget the learned entries; return how many were in use."""
        ...

    async def service_add(self, service: Service) -> ServiceChanged:
        """Serve a VIP; Refused if the name is there already.

        InvalidInput where another service has a port of it, or this host cannot carry it out.
        """
        ...

    async def service_set(self, name: str, change: ServiceChange) -> ServiceChanged:
        """Make a service what `change.of` says; refuses as service_add does; NotFound if there is none of that name."""
        ...

    async def service_del(self, name: str) -> None:
        """Stop serving; its flows end. NotFound if there is none of that name."""
        ...

    async def services(self, name: str | None, *, stats: bool, flows: bool, ring: bool) -> list[ServiceRow]:
        """Return all services, or the one named (NotFound if there is none), in the order of their names.

        What costs time is there where it is asked for: packets, octets and connections with `stats`; flows that are
        remembered, by backend too, with `flows`; slots by state and by backend with `ring`. Else it is None.
        """
        ...

    async def backend_add(self, service: str, backends: Sequence[Backend]) -> BackendChanged:
        """Add backends of distinct addresses, all or nothing; Refused if the service has one of them already."""
        ...

    async def backend_set(self, service: str, address: str, change: BackendChange) -> BackendChanged:
        """Make a backend what `change` says; NotFound if there is no such service, or it has no such backend."""
        ...

    async def backend_del(self, service: str, address: str, grace: float | None) -> BackendChanged:
        """Remove a backend; its flows stay with it for `grace` seconds, the service's `idle` where that is None."""
        ...

    async def backend_drain(self, service: str, address: str, drained: bool) -> BackendChanged:
        """Let a backend take no new flow, and keep what it has; or let it take flows again as its weight says.

        Refused where it is to take flows again and its weight is 0; what is so already is no change and no failure.
        """
        ...

    async def backend_drained(self, service: str, address: str, since: float) -> DrainState:
        """Return what a backend has left; `flows` are those seen in the last `since` seconds."""
        ...

    async def decap_add(self, decap: Decap) -> DecapRow:
        """Take packets out that come so encapsulated; Refused if that is so already, InvalidInput as service_add."""
        ...

    async def decap_del(self, keys: Sequence[str]) -> None:
        """Stop that, for entries by their `key`, all or nothing; NotFound if one is absent."""
        ...

    async def decaps(self) -> list[DecapRow]:
        """Return all entries, in the order of their keys."""
        ...

    async def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent."""
        ...

    async def intent(self) -> Wanted:
        """Return a copy of the intent, as of one moment."""
        ...

    async def apply(
        self,
        want: Wanted,
        *,
        what: str = "apply",
        merge: bool = False,
        dry_run: bool = False,
        confirm_within: float | None = None,
        revision: int | None = None,
        limit: int = 0,
    ) -> Applied:
        """Make the intent equal to `want`, or with `merge` add and change what it names, all or nothing.

        `confirm_within` (seconds): roll back unless `confirm` comes in time. `revision`: Refused if the intent is no
        longer that one. `limit`: how many differences to return. Refused while another change waits to be confirmed.
        """
        ...

    async def history(self) -> list[HistoryRow]:
        """Return the last changes, the newest first."""
        ...

    async def rollback(self, number: int, *, dry_run: bool = False, limit: int = 0) -> Applied:
        """Make the intent what it was after change `number`; NotFound where that is not known any more."""
        ...

    async def confirm(self) -> Confirmed:
        """Keep the change that waits for it; Refused where none does."""
        ...

    def interface_index(self, name: str) -> int | None:
        """Return a device's index in the daemon's network namespace, None if there is none; must not block."""
        ...

    def interface_name(self, index: int) -> str | None:
        """Return the name of the device with this index, None if there is none; must not block."""
        ...
