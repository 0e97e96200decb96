"""How much the API holds for its clients at once: one Room for all who may change, another for all who only look.

So nobody who may only look can keep those out who change.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from hopline.errors import HoplineError

MIB = 1 << 20
HELD_MOST = 512 * MIB  # bytes of bodies, of all clients together
UPLOADS_MOST = 2  # each holds what it has read
LISTS_MOST = 4  # long answers under way; each holds its rows until its client has taken them
LISTS_MADE_MOST = 2  # answers being made, whose length is not known before; others wait
LIST_SECONDS = 300.0  # for a client to take one


class Busy(HoplineError):
    """Too much of one kind is under way; nothing of the request was looked at."""


class Room:
    """What is held now; each method refuses with Busy where there is no more room."""

    def __init__(self) -> None:
        self._held = 0  # bytes
        self._uploads = 0
        self._lists = 0
        self.making = asyncio.Semaphore(LISTS_MADE_MOST)
        # one at a time: decoding keeps the interpreter to itself, and the event loop has a lease to extend
        self.decoding = asyncio.Lock()

    @contextmanager
    def body(self, size: int) -> Iterator[None]:
        """Hold a body of `size` bytes."""
        if self._held + size > HELD_MOST:
            raise Busy(f"more than {HELD_MOST // MIB} MiB of requests are under way: try again")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Hold what an upload has brought so far."""
        if self._uploads >= UPLOADS_MOST:
            raise Busy(f"{UPLOADS_MOST} uploads are under way: try again when one is done")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    def answer(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Return the parts of a long answer, held until they are taken."""
        if self._lists >= LISTS_MOST:
            raise Busy(f"{LISTS_MOST} long lists are being read: try again, or ask for less with limit")
        return self._taken(parts, _Place(self))

    async def _taken(self, parts: AsyncIterator[bytes], place: "_Place") -> AsyncIterator[bytes]:
        try:
            # raises between two parts: what came so far is then seen to be cut off
            deadline = asyncio.get_running_loop().time() + LIST_SECONDS
            async for part in parts:
                yield part
                if asyncio.get_running_loop().time() > deadline:
                    raise Busy("a long list was not taken in time")
        finally:
            place.free()


class _Place:
    """One of the long lists under way; free at the latest when nobody holds on to it, such as one never begun."""

    def __init__(self, room: Room) -> None:
        self._room: Room | None = room
        room._lists += 1

    def free(self) -> None:
        """Give it to another."""
        if self._room is not None:
            self._room._lists -= 1
            self._room = None

    __del__ = free
