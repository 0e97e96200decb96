"""A daemon's verbs from Python, over its unix socket.

    with hopline.connect() as client:      # or connect("lab")
        client.forward.add("10.10.3.5", via="10.10.3.1")
        for row in client.forward.show(): ...

Every method raises Unavailable when no daemon answers, Refused, NotFound or InvalidInput as the daemon says. Reading
falls back to the view socket where the admin socket is not permitted.
"""

from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from hopline.client.balance import BackendVerbs, DecapVerbs, ServiceVerbs
from hopline.client.forward import ForwardVerbs, LoadFormat, Progress, load_format
from hopline.client.intent import IntentVerbs
from hopline.client.interface import InterfaceVerbs
from hopline.client.query import flag
from hopline.config import instance_name
from hopline.daemon.options import default_run
from hopline.daemon.protocol import Applied, HistoryRow, Status
from hopline.errors import Refused
from hopline.explain import ExplainVerbs
from hopline.transport import Body, exchange, failure

__all__ = ["Client", "LoadFormat", "Progress", "connect", "load_format"]

TIMEOUT_SECONDS = 120.0  # a load of many entries takes seconds; a daemon that says nothing for this long is stuck

T = TypeVar("T")


def connect(instance: str = "main", run_dir: str | Path | None = None, timeout: float = TIMEOUT_SECONDS) -> "Client":
    """Return a client of an instance; `run_dir` is where its sockets are. Nothing is sent before the first verb."""
    instance_name(instance)
    return Client(instance, Path(run_dir) if run_dir is not None else default_run(instance), timeout)


class Client:
    """One instance's verbs, by noun, `intent` being all nouns together, and those of the daemon itself."""

    def __init__(self, instance: str, run_dir: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        self.instance = instance
        self.run_dir = run_dir
        self.interface = InterfaceVerbs(self)
        self.forward = ForwardVerbs(self)
        self.service = ServiceVerbs(self)
        self.backend = BackendVerbs(self)
        self.decap = DecapVerbs(self)
        self.intent = IntentVerbs(self)
        self.explain = ExplainVerbs(self)
        self._timeout = timeout

    def status(self) -> Status:
        """Return the daemon's state: interfaces, verdicts, entries, lease."""
        return self.ask("GET", "/status", kind=Status)

    def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent."""
        self.ask("POST", "/detach", kind=msgspec.Raw)

    def history(self) -> list[HistoryRow]:
        """Return the last changes of the intent, the newest first."""
        return self.ask("GET", "/history", kind=list[HistoryRow])

    def rollback(self, number: int, *, dry_run: bool = False, limit: int | None = None) -> Applied:
        """Make the intent what it was after change `number`; NotFound where that is not known any more."""
        query = {"dry_run": flag(dry_run), "limit": limit}
        return self.ask("POST", f"/history/{number}/rollback", query, kind=Applied)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: every verb uses a connection of its own."""

    def ask(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: object = None,
        *,
        kind: type[T],
        only_looks: bool = False,
    ) -> T:
        """Send one request and decode its answer as `kind`; None in `query` is left out, a list is repeated.

        `body` is sent as JSON, a Body as it is. `only_looks`: it changes nothing though it is no GET.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, doseq=True)}" if given else path
        sent = body if body is None or isinstance(body, Body) else Body(msgspec.json.encode(body))
        status, answer = self._exchange(method, target, sent, only_looks or method == "GET")
        if status != 200:
            raise failure(status, answer)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            reason = f"instance {self.instance}: the daemon's answer to {method} {path} cannot be read: {error}"
            raise Refused(f"{reason}: use the hopline of the daemon's version") from None

    def _exchange(self, method: str, target: str, body: Body | None, only_looks: bool) -> tuple[int, bytes]:
        admin, view = self.run_dir / "admin.sock", self.run_dir / "view.sock"
        try:
            return exchange(admin, method, target, body, timeout=self._timeout, instance=self.instance)
        except PermissionError:
            if not only_looks:
                todo = "do this as root"
                raise Refused(f"instance {self.instance}: {admin}: permission denied: {todo}") from None
        try:
            return exchange(view, method, target, body, timeout=self._timeout, instance=self.instance)
        except PermissionError:
            todo = "do this as root, or as a member of its group"
            raise Refused(f"instance {self.instance}: {view}: permission denied: {todo}") from None
