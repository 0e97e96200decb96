"""A daemon's verbs from Python, over its unix socket.

    with hopline.connect() as client:      # or connect("lab")
        client.forward.add("10.10.3.5", via="10.10.3.1")
        for row in client.forward.show(): ...

Every method raises Unavailable when no daemon answers, Refused, NotFound or InvalidInput as the daemon says. Reading
falls back to the view socket where the admin socket is not permitted.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from hopline.config import Forward, Intent, Interface, Mode, Origin, device_name, instance_name
from hopline.daemon.options import default_run
from hopline.daemon.protocol import (
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
from hopline.errors import InvalidInput, Refused
from hopline.explain import ExplainVerbs
from hopline.intent import Wanted, document_of
from hopline.transport import Body, exchange, failure

TIMEOUT_SECONDS = 120.0  # a load of many entries takes seconds; a daemon that says nothing for this long is stuck
PIECE = 256 * 1024  # bytes of a file that are sent at once

LoadFormat = Literal["csv", "jsonl"]
Progress = Callable[[int], None]  # is told how many bytes have been sent so far

T = TypeVar("T")
_MEDIA_TYPES: dict[LoadFormat, str] = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
_SUFFIXES: dict[str, LoadFormat] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


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
        query = {"dry_run": _flag(dry_run), "limit": limit}
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


class InterfaceVerbs:
    """The verbs of the noun `interface`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(
        self, name: str, *, mode: Mode = "auto", bypass_policy: bool = False, replace: bool = False
    ) -> InterfaceAdded:
        """Handle what `name` receives; `replace` takes the device from another program."""
        from hopline.host.lend import lent, traps_seen  # here, for it may load libbpf

        body = Interface(name, mode, bypass_policy)
        state = self._client.status()
        with lent(state.instance, state.pid, state.netns, name, replace=replace):
            added = self._client.ask("POST", "/interfaces", {"replace": _flag(replace)}, body, kind=InterfaceAdded)
        seen = traps_seen(state.pid, state.netns, name)
        # who may look into more namespaces than the daemon sees all that it does, and names the peer
        return InterfaceAdded(added.interface, added.state, seen or added.warnings)

    def set(self, name: str, *, mode: Mode | None = None, bypass_policy: bool | None = None) -> InterfaceAdded:
        """Change what is given."""
        given: dict[str, object] = {"mode": mode, "bypass_policy": bypass_policy}
        body = {field: value for field, value in given.items() if value is not None}
        return self._client.ask("PATCH", _interface(name), body=body, kind=InterfaceAdded)

    def delete(self, name: str) -> None:
        """Stop handling what `name` receives."""
        self._client.ask("DELETE", _interface(name), kind=msgspec.Raw)

    def show(self, name: str | None = None) -> list[InterfaceState]:
        """Return all interfaces, or the one named; NotFound if there is none of that name."""
        if name is None:
            return self._client.ask("GET", "/interfaces", kind=list[InterfaceState])
        return [self._client.ask("GET", _interface(name), kind=InterfaceState)]


class ForwardVerbs:
    """The verbs of the noun `forward`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(
        self,
        to: str,
        *,
        dev: str | None = None,
        dst_mac: str | None = None,
        src_mac: str | None = None,
        via: str | None = None,
    ) -> None:
        """Enter a destination by `dev` and `dst_mac`, or by `via`; Refused if it is there already."""
        self.put([Forward(to=to, dev=dev, src_mac=src_mac, dst_mac=dst_mac, via=via)])

    def replace(
        self,
        to: str,
        *,
        dev: str | None = None,
        dst_mac: str | None = None,
        src_mac: str | None = None,
        via: str | None = None,
    ) -> None:
        """Enter a destination, or change it."""
        self.put([Forward(to=to, dev=dev, src_mac=src_mac, dst_mac=dst_mac, via=via)], replace=True)

    def put(self, forwards: Iterable[Forward], *, replace: bool = False) -> None:
        """Enter many, all or nothing; at most 64 MiB of JSON, some 500,000 entries."""
        entries = list(forwards)
        if entries:
            # one alone goes as itself, so that an error names its field without a place in a list
            body: object = entries[0] if len(entries) == 1 else entries
            self._client.ask("PUT" if replace else "POST", "/forwards", body=body, kind=msgspec.Raw)

    def load(
        self,
        source: str | Path | BinaryIO,
        *,
        format: LoadFormat | None = None,
        progress: Progress | None = None,
    ) -> Applied:
        """Enter and change as many as a file has, all or nothing; it is sent as it is read.

        CSV with a header line, or JSON lines; told by the name or the first bytes unless `format` says. InvalidInputs
        names the wrong values, with their lines.
        """
        if isinstance(source, str | Path):
            with open(source, "rb") as file:
                return self._load(str(source), file, format, progress)
        return self._load(str(getattr(source, "name", "-")), source, format, progress)

    def _load(self, name: str, file: BinaryIO, format: LoadFormat | None, progress: Progress | None) -> Applied:
        first = _read(name, file)
        known = format or load_format(name, first)
        if known is None:
            detail = "neither CSV nor JSON lines by its name and beginning"
            raise InvalidInput("format", detail, "say which: csv or jsonl")
        body = Body(_pieces(name, first, file, progress), _MEDIA_TYPES[known])
        return self._client.ask("POST", "/forwards/load", body=body, kind=Applied)

    def delete(self, *destinations: str) -> None:
        """Remove operator entries, all or nothing; NotFound if one is absent."""
        self._client.ask("DELETE", "/forwards", {"to": destinations}, kind=msgspec.Raw)

    def show(
        self, to: str | None = None, *, origin: Origin | None = None, limit: int | None = None
    ) -> list[ForwardRow]:
        """Return entries of both origins, or of one; at most `limit`."""
        query = {"to": to, "origin": origin, "limit": limit}
        return self._client.ask("GET", "/forwards", query, kind=list[ForwardRow])

    def get(self, address: str, *, in_dev: str | None = None) -> ForwardAnswer:
        """Return what a packet to `address` would get, from where, and why."""
        return self._client.ask("GET", "/forwards/get", {"address": address, "in": in_dev}, kind=ForwardAnswer)

    def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies with their counters."""
        return self._client.ask("GET", "/next-hops", kind=list[NextHopRow])

    def flush(self, *, origin: Origin = "learned") -> int:
        """Forget the learned entries; return how many there were."""
        return self._client.ask("POST", "/forwards/flush", body={"origin": origin}, kind=dict[str, int])["changed"]


class IntentVerbs:
    """The verbs of the intent as a whole; it is given as a document's Intent, or as entries by noun and key."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def show(self) -> Intent:
        """Return all that the operator asked for, as a document."""
        return self._client.ask("GET", "/intent", kind=Intent)

    def apply(
        self,
        want: Intent | Wanted,
        *,
        merge: bool = False,
        dry_run: bool = False,
        confirm_within: float | None = None,
        revision: int | None = None,
        limit: int | None = None,
    ) -> Applied:
        """Make the intent equal to `want`, or with `merge` add and change what it names, all or nothing.

        `confirm_within` (seconds): it is rolled back unless `confirm` comes in time. `revision`: Refused if the intent
        is no longer that one. `limit`: how many differences to return, 0 to 1000.
        """
        query = {
            "merge": _flag(merge),
            "dry_run": _flag(dry_run),
            "confirm_within": confirm_within,
            "revision": revision,
            "limit": limit,
        }
        return self._client.ask("PUT", "/intent", query, _document(want), kind=Applied)

    def diff(self, want: Intent | Wanted, *, merge: bool = False, limit: int | None = None) -> Applied:
        """Return what `apply` would add, change and remove; changes nothing."""
        query = {"merge": _flag(merge), "limit": limit}
        return self._client.ask("POST", "/intent/diff", query, _document(want), kind=Applied, only_looks=True)

    def confirm(self) -> Confirmed:
        """Keep the change that waits for it; Refused where none does."""
        return self._client.ask("POST", "/intent/confirm", kind=Confirmed)


def load_format(name: str, beginning: bytes = b"") -> LoadFormat | None:
    """Return the format of a file for `forward load` by its suffix, else by how it begins; None if neither says."""
    known = _SUFFIXES.get(Path(name).suffix.lower())
    if known is not None or not beginning.strip():
        return known
    if beginning.lstrip()[:1] == b"{":
        return "jsonl"
    # a header line names columns, and `to` is one of them
    columns = beginning.lstrip().partition(b"\n")[0].replace(b'"', b"").split(b",")
    return "csv" if b"to" in {column.strip() for column in columns} else None


def _flag(value: bool) -> str | None:
    return "true" if value else None


def _document(want: Intent | Wanted) -> Intent:
    return document_of(want) if isinstance(want, Wanted) else want


def _pieces(name: str, first: bytes, file: BinaryIO, progress: Progress | None) -> Iterator[bytes]:
    """Yield a file as it is read, `first` before what follows it, and tell how far it has got."""
    sent, piece = 0, first
    while piece:
        yield piece
        sent += len(piece)
        if progress is not None:
            progress(sent)
        piece = _read(name, file)


def _read(name: str, file: BinaryIO) -> bytes:
    try:
        return file.read(PIECE)
    except OSError as error:
        # not an OSError any more: those are the connection's
        reason = (error.strerror or str(error)).lower()
        raise Refused(f"load {name}: {reason}: nothing was changed") from error


def _interface(name: str) -> str:
    # checked here: a slash, even quoted, would name another resource
    return f"/interfaces/{quote(device_name(name, 'name'))}"
