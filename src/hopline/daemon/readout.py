"""Reading the datapath for people: interfaces with their counters, entries, next hops."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import msgspec
from numpy.typing import NDArray

from hopline.config import Interface, NextHop, Origin
from hopline.daemon.attachments import Attachments
from hopline.daemon.datapath import PIPELINE
from hopline.daemon.learned import LearnedTable, next_hop_text
from hopline.daemon.operator import OperatorTables
from hopline.daemon.protocol import (
    Applied,
    Count,
    Counts,
    Difference,
    ForwardRow,
    InterfaceState,
    NextHopRow,
    Plain,
)
from hopline.daemon.surroundings import Surroundings
from hopline.features.forward import Adjacency, freshness, word_mac
from hopline.intent import NOUNS, Change, Delta, Noun


class Readout:
    """Answers of the read-only kind."""

    def __init__(
        self, attachments: Attachments, tables: OperatorTables, learned: LearnedTable, surroundings: Surroundings
    ) -> None:
        self.attachments = attachments
        self.tables = tables
        self.learned = learned
        self.surroundings = surroundings
        self.datapath = attachments.datapath

    def interfaces(self, problems: dict[str, str], warnings: dict[str, list[str]]) -> list[InterfaceState]:
        """Return every interface of the intent, by name."""
        totals = self.datapath.maps["verdict_count"].sums()
        wanted = sorted(self.surroundings.wanted.values(), key=lambda interface: interface.name)
        return [self._interface(i, problems.get(i.name), warnings.get(i.name, []), totals) for i in wanted]

    def _interface(
        self, wanted: Interface, problem: str | None, warnings: list[str], totals: NDArray[Any]
    ) -> InterfaceState:
        link = self.surroundings.link_named(wanted.name)
        attachment = self.attachments.by_index.get(link.index) if link else None
        if attachment is not None and not attachment.link.ifindex:
            attachment, problem = None, "somebody detached it: it is attached again in a moment"
        if attachment is None or link is None:
            return InterfaceState(
                name=wanted.name,
                index=link.index if link else None,
                wanted_mode=wanted.mode,
                mode=None,
                bypass_policy=wanted.bypass_policy,
                attached=False,
                problem=problem or (None if link else f"{wanted.name} does not exist: it is attached when it appears"),
            )
        learn4, learn6 = self.attachments.learning(link.index)
        reasons = [(f, r) for f in (4, 6) for r in self.surroundings.forbids(link.index, f)]
        width = self.datapath.limits.VERDICT_SLOTS
        rows = totals[attachment.slot * width : (attachment.slot + 1) * width]
        return InterfaceState(
            name=wanted.name,
            index=link.index,
            wanted_mode=wanted.mode,
            mode=attachment.mode,
            bypass_policy=wanted.bypass_policy,
            attached=True,
            program=PIPELINE,
            program_id=attachment.link.program_id,
            tag=attachment.program.tag,
            steps=self._steps(),
            learning={"ipv4": learn4, "ipv6": learn6},
            forbids=[f"ipv{family}: {reason}" for family, reason in reasons],
            warnings=warnings,
            verdicts={
                verdict.name: Count(int(rows[verdict]["packets"]), int(rows[verdict]["bytes"]))
                for verdict in self.datapath.verdicts
                if rows[verdict]["packets"]
            },
        )

    def _steps(self) -> list[str]:
        """Return the steps that the programs have, in their order."""
        switched = {"decap": self.datapath.decapsulating, "balance": self.datapath.balancing}
        return ["parse", *(name for name, on in switched.items() if on), "forward", "verdict"]

    def _device(self, index: int) -> str | None:
        link = self.surroundings.watch.links.get(index)
        return link.name if link else None

    def operator_rows(self, limit: int | None = None) -> Iterator[ForwardRow]:
        """Yield the operator's entries, `limit` at most."""
        takes: dict[int, bool] = {}
        made: dict[tuple[int, int], ForwardRow] = {}
        for to, hop, adjacency in self.tables.snapshot(limit):
            index = adjacency.ifindex
            if index not in takes:
                takes[index] = self.attachments.takes_redirects(index)
            # a million entries have few next hops, and share what is said of them
            key = (id(hop), id(adjacency))
            if (row := made.get(key)) is None:
                row = made[key] = self._operator_row(to, hop, adjacency, takes[index])
            yield ForwardRow(
                to=to,
                dev=row.dev,
                src_mac=row.src_mac,
                dst_mac=row.dst_mac,
                origin="operator",
                via=row.via,
                fresh=row.fresh,
            )

    def operator_row(self, to: str, hop: NextHop, adjacency: Adjacency) -> ForwardRow:
        """Return one operator entry; the addresses are those in use."""
        return self._operator_row(to, hop, adjacency, self.attachments.takes_redirects(adjacency.ifindex))

    def _operator_row(self, to: str, hop: NextHop, adjacency: Adjacency, takes_redirects: bool) -> ForwardRow:
        ready = adjacency.state == "READY"
        return ForwardRow(
            to=to,
            dev=self._device(adjacency.ifindex) or hop.dev,
            src_mac=word_mac(adjacency.source) if adjacency.source else hop.src_mac,
            dst_mac=word_mac(adjacency.destination) if ready else hop.dst_mac,
            origin="operator",
            via=hop.via,
            fresh=freshness(hop, adjacency, takes_redirects),
        )

    def learned_rows(self) -> Iterator[ForwardRow]:
        """Yield what the cache holds of the FIB's answers."""
        for entry in self.learned.entries():
            row = self.datapath.adjacencies[entry.id]
            via = next_hop_text(int(row["family"]) or 6, row["next_hop"].tobytes())
            yield ForwardRow(
                to=entry.to,
                dev=self._device(int(row["ifindex"])),
                src_mac=word_mac(int(row["source"])),
                dst_mac=word_mac(int(row["destination"])),
                origin="learned",
                via=None if via == entry.to else via,
                fresh="yes",
            )

    def rows(self, origin: Origin | None, limit: int | None = None) -> Iterator[ForwardRow]:
        """Yield entries of one origin, or of both, the operator's first, of which there are `limit` at most."""
        if origin != "learned":
            yield from self.operator_rows(limit)
        if origin != "operator":
            yield from self.learned_rows()

    def next_hops(self) -> list[NextHopRow]:
        """Return the adjacencies in use, with what left through each; the operator's first."""
        totals = self.datapath.maps["next_hop_count"].sums()
        cached = self.learned.entries_by_id()
        rows = [self._next_hop(id, "operator", hop.dev, entries, totals[id]) for id, hop, entries in self.tables.uses()]
        return rows + [self._next_hop(id, "learned", None, cached[id], totals[id]) for id in self.learned.ready()]

    def _next_hop(self, id: int, origin: Origin, dev: str | None, entries: int, total: Any) -> NextHopRow:
        row = self.datapath.adjacencies[id]
        ready = int(row["state"]) == self.datapath.states.ADJACENCY_READY
        family = int(row["family"])
        return NextHopRow(
            id=id,
            dev=self._device(int(row["ifindex"])) or dev,
            src_mac=word_mac(int(row["source"])) if row["source"] else None,
            dst_mac=word_mac(int(row["destination"])) if ready else None,
            mtu=int(row["destination"]) >> 48,
            origin=origin,
            via=next_hop_text(family, row["next_hop"].tobytes()) if family else None,
            entries=entries,
            packets=int(total["packets"]),
            bytes=int(total["bytes"]),
        )


def applied(
    change: Change,
    revision: int,
    *,
    limit: int = 0,
    dry_run: bool = False,
    steps: int = 0,
    confirm_within_s: float | None = None,
    warnings: Sequence[str] = (),
) -> Applied:
    """Return what the API says of a change; `limit` is how many entries to name of each noun and kind.

    Not for the event loop: there may be a million.
    """
    counts, named = {}, []
    for noun in NOUNS:
        delta = change.of(noun.name)
        if not delta:
            continue
        counts[noun.name] = _counts(delta)
        added = (key for key in delta.after if key not in delta.before)
        changed = (key for key in delta.after if key in delta.before)
        removed = (key for key in delta.before if key not in delta.after)
        for key in chain.from_iterable(islice(keys, limit) for keys in (added, changed, removed)):
            before, after = (_entry(noun, key, side) for side in (delta.before, delta.after))
            named.append(Difference(noun.name, key, before, after))
    return Applied(
        revision=revision,
        dry_run=dry_run,
        counts=counts,
        differences=named,
        steps=steps,
        confirm_within_s=confirm_within_s,
        warnings=list(warnings),
    )


def _counts(delta: Delta) -> Counts:
    both = len(delta.before.keys() & delta.after.keys()) if delta.before else 0
    return Counts(len(delta.after) - both, both, len(delta.before) - both)


def _entry(noun: Noun, key: str, side: Mapping[str, Any]) -> dict[str, Plain] | None:
    if key not in side:
        return None
    fields = msgspec.to_builtins(noun.entry(key, side[key]))
    return {name: value for name, value in fields.items() if value is not None}
