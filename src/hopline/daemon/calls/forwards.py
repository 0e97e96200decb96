"""What the API asks of entries, and of packets: `forward` and `explain`."""

import asyncio
from collections.abc import Sequence
from itertools import islice

from hopline.config import Forward, NextHop, Origin
from hopline.daemon.core import Core
from hopline.daemon.possible import placed, plainly
from hopline.daemon.protocol import (
    ForwardAnswer,
    ForwardRow,
    NextHopRow,
)
from hopline.errors import NotFound, Refused
from hopline.explain import Batch, Explanation, Question, Tallied
from hopline.intent import Change, Delta, Wanted, difference


class ForwardCalls(Core):
    """Of the noun `forward`."""

    async def forward_put(self, forwards: Sequence[Forward], replace: bool) -> None:
        """Enter all or nothing."""
        async with self.changes.lock:
            want = {forward.to: NextHop.of(forward) for forward in forwards}
            have = self.tables.wanted()
            if not replace and (there := next((to for to in want if to in have), None)) is not None:
                raise Refused(f"forward {there} exists: use replace")
            change = difference(Wanted({"forward": have}), Wanted({"forward": want}), merge=True)
            named = plainly if len(want) == 1 else placed({"forward": want})
            await self.changes.make(change, _what("replace" if replace else "add", list(want)), named=named)

    async def forward_del(self, destinations: Sequence[str]) -> None:
        """Remove operator entries, all or nothing."""
        async with self.changes.lock:
            have = self.tables.wanted()
            for to in destinations:
                if to not in have:
                    raise NotFound(f"forward {to}: no such entry: `hopline forward show` lists them")
            change = Change({"forward": Delta(before={to: have[to] for to in destinations})})
            await self.changes.make(change, _what("del", destinations))

    # what is there

    async def forwards(self, to: str | None, origin: Origin | None, limit: int | None) -> list[ForwardRow]:
        """Return entries, of both origins unless told; at most `limit`."""
        if to is not None and origin != "learned" and (entry := self.tables.entry(to)) is not None:
            return [self.readout.operator_row(*entry)]
        if to is not None:
            if origin == "operator":
                return []
            origin, limit = "learned", None
        rows = (row for row in self.readout.rows(origin, limit) if to is None or row.to == to)
        # in a thread: a million rows take seconds, and the event loop has a lease to keep
        return await asyncio.to_thread(lambda: list(islice(rows, limit)))

    async def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies in use."""
        return await asyncio.to_thread(self.readout.next_hops)

    async def forward_get(self, address: str, in_dev: str | None) -> ForwardAnswer:
        """Ask the shipped program about a packet to `address`; it comes in where it would not go out again."""
        return await self.explainer.forward_get(address, in_dev)

    async def explain(self, question: Question) -> Explanation:
        """Ask the shipped program about one packet."""
        return await self.explainer.explain(question)

    async def explain_batch(self, batch: Batch) -> Tallied:
        """Ask the shipped program about many packets."""
        return await self.explainer.tally(batch)

    async def forward_flush(self) -> int:
        """Forget the learned entries; return how many were in use."""
        count = self.learned.count()
        self.datapath.bump_generation()
        return count


def _what(verb: str, destinations: Sequence[str]) -> str:
    """Return what the history calls a change of entries."""
    return f"forward {verb} {destinations[0] if len(destinations) == 1 else f'{len(destinations)} entries'}"
