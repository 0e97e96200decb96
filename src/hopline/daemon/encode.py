"""JSON of long lists without holding up the event loop, on which the lease of the cache depends."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any

import msgspec

ROWS_AT_ONCE = 10_000  # about 3 ms of encoding
SERVICES_AT_ONCE = 50  # each may have a hundred backends, or some thousands

encoder = msgspec.json.Encoder()


async def encoded_parts(rows: Iterable[Any], at_once: int = ROWS_AT_ONCE) -> AsyncIterator[bytes]:
    """Yield the inside of a JSON list of `rows` in parts of `at_once`, others running in between."""
    left = iter(rows)
    comma = b""
    while part := list(islice(left, at_once)):
        yield comma + encoder.encode(part)[1:-1]
        comma = b","
        await asyncio.sleep(0)


async def encoded_list(rows: Iterable[Any]) -> bytes:
    """Return `rows` as a JSON list."""
    return b"[" + b"".join([part async for part in encoded_parts(rows)]) + b"]"
