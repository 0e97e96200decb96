"""What the API answers of the daemon, its interfaces and forwards, and of changes of the intent."""

import msgspec

from hopline.config import Interface, Mode, Origin

# what a field of an entry is in JSON: of a service, `backend` is a list of objects
Plain = str | bool | int | float | list[dict[str, str | bool | int | None]]


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


class PendingState(msgspec.Struct, frozen=True):
    """A change that is taken back unless it is confirmed in time."""

    revision: int
    left_s: float


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
    revision: int = 0  # number of the last change of the intent
    pending: PendingState | None = None
    repairs: dict[str, int] = {}  # of drift since the daemon began, by what had to be put right


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


class Counts(msgspec.Struct, frozen=True):
    """How many entries of one noun a change touches."""

    added: int = 0
    changed: int = 0
    removed: int = 0


class Difference(msgspec.Struct, frozen=True):
    """One entry that a change touches, as the document has it: added without `before`, removed without `after`."""

    noun: str
    key: str
    before: dict[str, Plain] | None = None
    after: dict[str, Plain] | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a change of the intent did, or would do where `dry_run` says so."""

    revision: int  # number of the change in the history; of a dry run, that of the intent it was compared with
    dry_run: bool = False
    counts: dict[str, Counts] = {}  # by noun; those that nothing changes of are absent
    differences: list[Difference] = []  # as many as were asked for
    steps: int = 0  # that the kernel took
    confirm_within_s: float | None = None  # it is rolled back unless it is confirmed within this time
    warnings: list[str] = []


class HistoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the intent."""

    number: int
    when: float  # seconds since the epoch
    by: str  # who asked, as the daemon's door saw it: "root (uid 0), process 4321 (hopline)"
    what: str  # "forward add 10.2.0.2", "apply", "rollback to 7"
    counts: dict[str, Counts] = {}
    pending: bool = False  # it is rolled back unless it is confirmed in time


class Confirmed(msgspec.Struct, frozen=True):
    """The change that was waiting and stays."""

    revision: int
