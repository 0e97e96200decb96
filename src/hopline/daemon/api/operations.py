"""The table of all that the API does: routing, what is accepted, and the description that is served come from it."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hopline.config import Intent
from hopline.config.service import IDLE_MOST
from hopline.daemon.api import balance, resources
from hopline.daemon.api.answers import Changed
from hopline.daemon.api.body import (
    BACKEND_CHANGE,
    BACKENDS,
    BATCH,
    DECAP,
    DOCUMENT,
    FLUSH,
    FORWARDS,
    INTERFACE,
    INTERFACE_CHANGE,
    QUESTION,
    SERVICE,
    SERVICE_CHANGE,
    UPLOAD,
    Body,
)
from hopline.daemon.api.parameters import (
    Parameter,
    address,
    choice,
    destination,
    device,
    flag,
    host,
    number,
    seconds,
    service,
    source,
)
from hopline.daemon.protocol import (
    Applied,
    BackendChanged,
    Confirmed,
    DecapRow,
    DrainState,
    ForwardAnswer,
    ForwardRow,
    HistoryRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    ServiceChanged,
    ServiceRow,
    Status,
)
from hopline.explain import Explanation, Tallied

DIFFERENCES_MOST = 1000
CONFIRM_LEAST, CONFIRM_MOST = 1.0, 86_400.0  # seconds
ROWS_MOST = 999_999_999


@dataclass(frozen=True)
class Operation:
    """One method of one path: what it takes, what it answers, and whether it may be done by a door that only shows."""

    method: str
    path: str
    handler: Callable[[resources.Asked], Awaitable[Any]]
    answer: Any  # the type of the JSON it answers
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    view: bool = False

    @property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return inspect.getdoc(self.handler) or ""

    @property
    def name(self) -> str:
        """What generated clients call it."""
        return self.handler.__name__

    @property
    def example(self) -> str:
        """A request that has all it must have."""
        query = "&".join(f"{p.name}=…" for p in self.parameters if p.place == "query" and p.required)
        return f"{self.method} {self.path}{'?' if query else ''}{query}"


NAME = device("name", "The interface's device.", "path")
REPLACE = flag("replace", "Whether to take the device from another program.")
ORIGIN = choice("origin", "Whose entries.", "operator", "learned")
ROWS = number("limit", "How many entries at most; all unless told.", 1, ROWS_MOST)
IN = device("in", "The device that the packet comes in by; any interface unless told.")
MERGE = flag("merge", "Whether what the document does not name stays.")
DRY_RUN = flag("dry_run", "Whether to say what would change, and change nothing.")
CONFIRM = seconds("confirm_within", "Roll back unless it is confirmed in this time.", CONFIRM_LEAST, CONFIRM_MOST)
REVISION = number("revision", "Refuse if the intent is not, or no longer, this one.", 0)
LIMIT = number("limit", "How many differences of each kind to list.", 0, DIFFERENCES_MOST, default=100)
NUMBER = number("number", "The number of a change; 0 is before the first.", 0, place="path")
ADDRESS = address("address", "The packet's destination.")
SERVICE_NAME = service("name", "The service's name.")
BACKEND_ADDRESS = host("address", "The backend's address.", "path")
DRAINED_ADDRESS = host("address", "The backend's address.")
STATS = flag("stats", "Whether to count packets, octets and connections.")
FLOWS = flag("flows", "Whether to count the flows that are remembered.")
RING = flag("ring", "Whether to count slots, by state and by backend.")
GRACE = seconds("grace", "How long it keeps its flows; the service's idle time unless told.", 0, IDLE_MOST)
SINCE = seconds("since", "How far back a flow that counts was seen.", 0, IDLE_MOST, default=60.0)
LOCAL = host("local", "The address that encapsulated packets come to.")
FROM = source("from", "Whose packets are accepted: an address, a prefix, or any.")
ENCAP = choice("encap", "How they are encapsulated.", "ipip", "gue", default="ipip")
ONE_BACKEND = "/services/{name}/backends/{address}"

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/status", resources.status, Status, view=True),
    Operation("GET", "/interfaces", resources.interfaces, list[InterfaceState], view=True),
    Operation("POST", "/interfaces", resources.interface_add, InterfaceAdded, (REPLACE,), INTERFACE),
    Operation("GET", "/interfaces/{name}", resources.interface, InterfaceState, (NAME,), view=True),
    Operation("PATCH", "/interfaces/{name}", resources.interface_set, InterfaceAdded, (NAME,), INTERFACE_CHANGE),
    Operation("DELETE", "/interfaces/{name}", resources.interface_del, Changed, (NAME,)),
    Operation("GET", "/forwards", resources.forwards, list[ForwardRow], (destination(), ORIGIN, ROWS), view=True),
    Operation("POST", "/forwards", resources.forward_add, Changed, (), FORWARDS),
    Operation("PUT", "/forwards", resources.forward_replace, Changed, (), FORWARDS),
    Operation("DELETE", "/forwards", resources.forward_del, Changed, (destination(required=True, many=True),)),
    Operation("POST", "/forwards/load", resources.forward_load, Applied, (LIMIT,), UPLOAD),
    Operation("GET", "/forwards/get", resources.forward_get, ForwardAnswer, (ADDRESS, IN), view=True),
    Operation("POST", "/forwards/flush", resources.forward_flush, Changed, (), FLUSH),
    Operation("GET", "/services", balance.services, list[ServiceRow], (STATS, FLOWS, RING), view=True),
    Operation("POST", "/services", balance.service_add, ServiceChanged, (), SERVICE),
    Operation("GET", "/services/{name}", balance.service, ServiceRow, (SERVICE_NAME, STATS, FLOWS, RING), view=True),
    Operation("PATCH", "/services/{name}", balance.service_set, ServiceChanged, (SERVICE_NAME,), SERVICE_CHANGE),
    Operation("DELETE", "/services/{name}", balance.service_del, Changed, (SERVICE_NAME,)),
    Operation("POST", "/services/{name}/backends", balance.backend_add, BackendChanged, (SERVICE_NAME,), BACKENDS),
    Operation(
        "PATCH", ONE_BACKEND, balance.backend_set, BackendChanged, (SERVICE_NAME, BACKEND_ADDRESS), BACKEND_CHANGE
    ),
    Operation("DELETE", ONE_BACKEND, balance.backend_del, BackendChanged, (SERVICE_NAME, BACKEND_ADDRESS, GRACE)),
    Operation("POST", f"{ONE_BACKEND}/drain", balance.backend_drain, BackendChanged, (SERVICE_NAME, BACKEND_ADDRESS)),
    Operation(
        "POST", f"{ONE_BACKEND}/undrain", balance.backend_undrain, BackendChanged, (SERVICE_NAME, BACKEND_ADDRESS)
    ),
    Operation(
        "GET",
        "/services/{name}/drained",
        balance.backend_drained,
        DrainState,
        (SERVICE_NAME, DRAINED_ADDRESS, SINCE),
        view=True,
    ),
    Operation("GET", "/decaps", balance.decaps, list[DecapRow], view=True),
    Operation("POST", "/decaps", balance.decap_add, DecapRow, (), DECAP),
    Operation("DELETE", "/decaps", balance.decap_del, Changed, (LOCAL, FROM, ENCAP)),
    Operation("POST", "/explain", resources.explain, Explanation, (), QUESTION, view=True),
    Operation("POST", "/explain/batch", resources.explain_batch, Tallied, (), BATCH, view=True),
    Operation("GET", "/next-hops", resources.next_hops, list[NextHopRow], view=True),
    Operation("GET", "/intent", resources.intent, Intent, view=True),
    Operation("PUT", "/intent", resources.intent_put, Applied, (MERGE, DRY_RUN, CONFIRM, REVISION, LIMIT), DOCUMENT),
    Operation("POST", "/intent/diff", resources.intent_diff, Applied, (MERGE, LIMIT), DOCUMENT, view=True),
    Operation("POST", "/intent/confirm", resources.intent_confirm, Confirmed),
    Operation("GET", "/history", resources.history, list[HistoryRow], view=True),
    Operation("POST", "/history/{number}/rollback", resources.rollback, Applied, (NUMBER, DRY_RUN, LIMIT)),
    Operation("POST", "/detach", resources.detach, Changed),
)
