"""The verbs of the noun `forward`."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import msgspec

from hopline.config import Forward, Origin
from hopline.daemon.protocol import Applied, ForwardAnswer, ForwardRow, NextHopRow
from hopline.errors import InvalidInput, Refused
from hopline.transport import Body

if TYPE_CHECKING:
    from hopline.client import Client

PIECE = 256 * 1024  # bytes of a file that are sent at once

LoadFormat = Literal["csv", "jsonl"]
Progress = Callable[[int], None]  # is told how many bytes have been sent so far

_MEDIA_TYPES: dict[LoadFormat, str] = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
_SUFFIXES: dict[str, LoadFormat] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class ForwardVerbs:
    """The verbs of the noun `forward`."""

    def __init__(self, client: "Client") -> None:
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
