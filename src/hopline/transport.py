"""One request to a daemon over its unix socket, and what its answer means: HTTP, so that anything can ask."""

import contextlib
import http.client
import select
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hopline.errors import HoplineError, InvalidInput, InvalidInputs, NotFound, Refused, Unavailable


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: bytes, or pieces that are sent as they come."""

    data: bytes | Iterable[bytes]
    media_type: str = "application/json"


class _Problem(msgspec.Struct):
    """One wrong value, as an error of the API has it."""

    field: str = ""
    detail: str = ""
    hint: str = ""
    line: int | None = None
    key: str | None = None

    def error(self) -> InvalidInput:
        return InvalidInput(self.field, self.detail, self.hint, line=self.line, key=self.key)


class _Failure(_Problem):
    """The body of an error."""

    error_: str = msgspec.field(default="", name="error")
    errors: list[_Problem] = []
    count: int = 0


def exchange(
    path: Path, method: str, target: str, body: Body | None, *, timeout: float, instance: str
) -> tuple[int, bytes]:
    """Send one request to the socket at `path`; return status and body of the answer.

    PermissionError where the socket is not for this user, Unavailable where nobody answers within `timeout` seconds.
    """
    connection = _UnixConnection(path, timeout)
    try:
        _send(connection, method, target, body)
        response = connection.getresponse()
        return response.status, response.read()
    except PermissionError:
        raise
    except TimeoutError:
        reason = f"the daemon on {path} did not answer in {timeout:g} s"
        raise Unavailable(f"instance {instance}: {reason}: look at its log") from None
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        start = "hopline serve" + ("" if instance == "main" else f" --instance {instance}")
        reason = f"no daemon answers on {path}"
        raise Unavailable(f"instance {instance}: {reason}: start it with `{start}`") from None
    except (OSError, http.client.HTTPException) as error:
        reason = f"the connection to {path} broke ({str(error).lower() or type(error).__name__})"
        raise Unavailable(f"instance {instance}: {reason}: see with `hopline status` what was done") from error
    finally:
        connection.close()


def failure(status: int, answer: bytes) -> HoplineError:
    """Return the error that an answer other than 200 stands for."""
    try:
        said = msgspec.json.decode(answer, type=_Failure)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Refused(f"the daemon answered with status {status} and no reason: look at its log")
    if said.error_ == "invalid_input":
        if len(said.errors) > 1:
            return InvalidInputs([problem.error() for problem in said.errors], max(said.count, len(said.errors)))
        return (said.errors[0] if said.errors else said).error()
    text = f"{said.detail}: {said.hint}" if said.hint else said.detail
    return NotFound(text) if said.error_ == "not_found" else Refused(text)


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


class _Answered(Exception):
    """The daemon has answered while it was spoken to."""


def _send(connection: _UnixConnection, method: str, target: str, body: Body | None) -> None:
    headers = {} if body is None else {"Content-Type": body.media_type}
    data = None if body is None else body.data
    if data is not None and not isinstance(data, bytes):
        data = _until_answered(connection, data)
    # one that refuses what it has heard so far need not hear the rest: its answer can be read
    with contextlib.suppress(_Answered, BrokenPipeError, ConnectionResetError):
        connection.request(method, target, body=data, headers=headers)


def _until_answered(connection: _UnixConnection, pieces: Iterable[bytes]) -> Iterator[bytes]:
    answer = select.poll()
    answer.register(connection.sock, select.POLLIN)
    for piece in pieces:
        if answer.poll(0):
            raise _Answered
        yield piece
