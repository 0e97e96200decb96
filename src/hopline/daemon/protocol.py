"""What the API answers, and what stands behind it.

The Structs are the JSON of the API and of `--json`, field for field. `ServiceProtocol` is the whole of what the API,
the seed-compatible front and their tests know of the class that owns the kernel's state.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from hopline.config import Forward, Interface, Mode, Origin


class Count(msgspec.Struct, frozen=True):
    """Packets, and the bytes of their frames as received."""

    packets: int
    bytes: int


class InterfaceState(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of the intent, beside what the kernel has of it."""

    name: str
    index: int | None  # None while the device does not exist
    wanted_mode: Mode
    mode: str | None  # native or generic, as the kernel has it; None while not attached
    bypass_policy: bool
    attached: bool
    program: str | None = None
    program_id: int | None = None
    tag: str | None = None
    steps: list[str] = []
    learning: dict[str, bool] = {}  # "ipv4", "ipv6" → whether the FIB's answers are used
    forbids: list[str] = []  # one sentence for each thing that keeps learning off
    problem: str | None = None  # why it is not attached
    warnings: list[str] = []
    verdicts: dict[str, Count] = {}  # by the name in enum verdict


class InterfaceAdded(msgspec.Struct, frozen=True):
    """The answer to adding or setting an interface: what is wanted, what came of it, and what to beware of."""

    interface: Interface
    state: InterfaceState
    warnings: list[str] = []


class EntryCount(msgspec.Struct, frozen=True):
    """Destinations by origin."""

    operator: int
    learned: int


class CacheState(msgspec.Struct, frozen=True, kw_only=True):
    """The cache in front of the tables; sizes in entries."""

    size_ipv4: int
    size_ipv6: int
    used_ipv4: int | None = None  # None where counting was not asked for
    used_ipv6: int | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon and all it looks after."""

    instance: str
    version: str
    pid: int
    uptime_s: float
    netns: int  # inode of the network namespace
    generation: int
    lease_ms: int  # until the cache stops answering if the daemon dies now
    interfaces: list[InterfaceState]
    entries: EntryCount
    cache: CacheState
    notes: list[str] = []  # one line for each thing to know, such as a store that was set aside


class ForwardRow(msgspec.Struct, frozen=True, kw_only=True):
    """One destination; the MAC addresses and the device are the ones in use, so None while `via` is unresolved."""

    to: str
    dev: str | None
    src_mac: str | None
    dst_mac: str | None
    origin: Origin
    via: str | None = None
    fresh: str = ""  # operator: "always", or what is missing; learned: "yes", "stale"


class NextHopRow(msgspec.Struct, frozen=True, kw_only=True):
    """One adjacency, and what left through it."""

    id: int
    dev: str | None
    src_mac: str | None
    dst_mac: str | None
    mtu: int
    origin: Origin
    via: str | None = None
    entries: int = 0
    packets: int = 0
    bytes: int = 0


class ForwardAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a packet to `address` would get, from where, and why."""

    address: str
    verdict: str  # the name in enum verdict
    dev: str | None = None
    src_mac: str | None = None
    dst_mac: str | None = None
    mtu: int | None = None
    origin: Origin | None = None
    entry: str | None = None  # the operator's destination that matched
    via: str | None = None
    cached: bool = False
    why: list[str] = []


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

    async def forward_flush(self) -> int:
        """Forget the learned entries; return how many were in use."""
        ...

    async def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent."""
        ...

    def interface_index(self, name: str) -> int | None:
        """Return a device's index in the daemon's network namespace, None if there is none; must not block."""
        ...

    def interface_name(self, index: int) -> str | None:
        """Return the name of the device with this index, None if there is none; must not block."""
        ...
