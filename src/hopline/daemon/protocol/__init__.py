"""What the API answers, and what stands behind it.

The Structs are the JSON of the API and of `--json`, field for field. `ServiceProtocol` is the whole of what the API,
the seed-compatible front and their tests know of the class that owns the kernel's state.
"""

from hopline.daemon.protocol.balance import (
    BackendChanged,
    BackendRow,
    DecapRow,
    DrainState,
    FlowState,
    RingState,
    ServiceChanged,
    ServiceRow,
)
from hopline.daemon.protocol.rows import (
    Applied,
    CacheState,
    Confirmed,
    Count,
    Counts,
    Difference,
    EntryCount,
    ForwardAnswer,
    ForwardRow,
    HistoryRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    PendingState,
    Plain,
    Status,
)
from hopline.daemon.protocol.service import ServiceProtocol

__all__ = [
    "Applied",
    "BackendChanged",
    "BackendRow",
    "CacheState",
    "Confirmed",
    "Count",
    "Counts",
    "DecapRow",
    "Difference",
    "DrainState",
    "EntryCount",
    "FlowState",
    "ForwardAnswer",
    "ForwardRow",
    "HistoryRow",
    "InterfaceAdded",
    "InterfaceState",
    "NextHopRow",
    "PendingState",
    "Plain",
    "RingState",
    "ServiceChanged",
    "ServiceProtocol",
    "ServiceRow",
    "Status",
]
