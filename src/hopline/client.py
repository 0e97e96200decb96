"""A daemon's verbs from Python, over its unix socket.

    with hopline.connect() as client:      # or connect("lab")
        client.forward.add("10.10.3.5", via="10.10.3.1")
        for row in client.forward.show(): ...

Every method raises Unavailable when no daemon answers, Refused, NotFound or InvalidInput as the daemon says. Reading
falls back to the view socket where the admin socket is not permitted.
"""

import http.client
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from hopline.config import Forward, Interface, Mode, Origin, device_name, instance_name
from hopline.daemon.options import default_run
from hopline.daemon.protocol import (
    ForwardAnswer,
    ForwardRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    Status,
)
from hopline.errors import HoplineError, InvalidInput, NotFound, Refused, Unavailable

TIMEOUT_SECONDS = 120.0  # a load of many entries takes seconds; a daemon that says nothing for this long is stuck

T = TypeVar("T")
_JSON = {"Content-Type": "application/json"}


def connect(instance: str = "main", run_dir: str | Path | None = None, timeout: float = TIMEOUT_SECONDS) -> "Client":
    """Return a client of an instance; `run_dir` is where its sockets are. Nothing is sent before the first verb."""
    instance_name(instance)
    return Client(instance, Path(run_dir) if run_dir is not None else default_run(instance), timeout)


class Client:
    """One instance's verbs, by noun: `interface`, `forward`, and those of the daemon itself."""

    def __init__(self, instance: str, run_dir: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        self.instance = instance
        self.run_dir = run_dir
        self.interface = InterfaceVerbs(self)
        self.forward = ForwardVerbs(self)
        self._timeout = timeout

    def status(self) -> Status:
        """Return the daemon's state: interfaces, verdicts, entries, lease."""
        return self.ask("GET", "/status", kind=Status)

    def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent."""
        self.ask("POST", "/detach", kind=msgspec.Raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: every verb uses a connection of its own."""

    def ask(
        self, method: str, path: str, query: dict[str, Any] | None = None, body: object = None, *, kind: type[T]
    ) -> T:
        """Send one request and decode its answer as `kind`; None in `query` is left out, a list is repeated."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, doseq=True)}" if given else path
        data = None if body is None else msgspec.json.encode(body)
        status, answer = self._exchange(method, target, data)
        if status != 200:
            raise _error(status, answer)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            reason = f"instance {self.instance}: the daemon's answer to {method} {path} cannot be read: {error}"
            raise Refused(f"{reason}: use the hopline of the daemon's version") from None

    def _exchange(self, method: str, target: str, data: bytes | None) -> tuple[int, bytes]:
        admin = self.run_dir / "admin.sock"
        try:
            return self._over(admin, method, target, data)
        except PermissionError:
            if method != "GET":
                todo = "do this as root"
                raise Refused(f"instance {self.instance}: {admin}: permission denied: {todo}") from None
        view = self.run_dir / "view.sock"
        try:
            return self._over(view, method, target, data)
        except PermissionError:
            todo = "do this as root, or as a member of its group"
            raise Refused(f"instance {self.instance}: {view}: permission denied: {todo}") from None

    def _over(self, path: Path, method: str, target: str, data: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(path, self._timeout)
        try:
            connection.request(method, target, body=data, headers={} if data is None else _JSON)
            response = connection.getresponse()
            return response.status, response.read()
        except PermissionError:
            raise
        except TimeoutError:
            reason = f"the daemon on {path} did not answer in {self._timeout:g} s"
            raise Unavailable(f"instance {self.instance}: {reason}: look at its log") from None
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            start = "hopline serve" + ("" if self.instance == "main" else f" --instance {self.instance}")
            reason = f"no daemon answers on {path}"
            raise Unavailable(f"instance {self.instance}: {reason}: start it with `{start}`") from None
        except (OSError, http.client.HTTPException) as error:
            reason = f"the connection to {path} broke ({str(error).lower() or type(error).__name__})"
            raise Unavailable(f"instance {self.instance}: {reason}: see with `hopline status` what was done") from error
        finally:
            connection.close()


class InterfaceVerbs:
    """The verbs of the noun `interface`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(
        self, name: str, *, mode: Mode = "auto", bypass_policy: bool = False, replace: bool = False
    ) -> InterfaceAdded:
        """Handle what `name` receives; `replace` takes the device from another program."""
        body = Interface(name, mode, bypass_policy)
        query = {"replace": "true"} if replace else None
        return self._client.ask("POST", "/interfaces", query, body, kind=InterfaceAdded)

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


def _interface(name: str) -> str:
    # checked here: a slash, even quoted, would name another resource
    return f"/interfaces/{quote(device_name(name, 'name'))}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _error(status: int, answer: bytes) -> HoplineError:
    try:
        body = msgspec.json.decode(answer, type=dict[str, str])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Refused(f"the daemon answered with status {status} and no reason: look at its log")
    detail, hint = body.get("detail", ""), body.get("hint", "")
    if body.get("error") == "invalid_input":
        return InvalidInput(body.get("field", ""), detail, hint)
    text = f"{detail}: {hint}" if hint else detail
    return NotFound(text) if body.get("error") == "not_found" else Refused(text)
