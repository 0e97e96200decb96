"""Answers questions about packets: by which interface, what the shipped program makes of it, and all of it in words.

All of it runs in one thread of its own, so that who only looks holds up neither changes nor the lease.
"""

import asyncio
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from hopline.config import Decap, NextHop, Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.explain.frames import decoded, left_decoded
from hopline.daemon.explain.notes import notes_of, read_note
from hopline.daemon.explain.runs import TIMED_RUNS, Runs
from hopline.daemon.explain.scene import Ingress, Scene
from hopline.daemon.explain.served import SeenBackend, ServedHost
from hopline.daemon.explain.steps import steps_of
from hopline.daemon.explain.then import then_of, unseen_of
from hopline.daemon.explain.words import verdict_words
from hopline.daemon.interfaces import Interfaces
from hopline.daemon.operator import OperatorTables
from hopline.daemon.protocol import ForwardAnswer
from hopline.daemon.surroundings import Surroundings
from hopline.errors import InvalidInput, KernelError, Refused
from hopline.explain import Batch, Explanation, Question, Tallied, Tally
from hopline.features.forward import word_mac
from hopline.features.probe import Fields, hex_frame, probe_frame
from hopline.kernel.netlink.lookup import MatchedRoute, SeenNeighbour, matched_route, seen_neighbour
from hopline.kernel.netlink.types import Link

T = TypeVar("T")
Made = Callable[[Ingress], bytes]  # the frame, once it is known by which interface it comes in

_NO_ROUTE = {
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTUNREACH: "host unreachable",
    errno.EACCES: "prohibited",
    errno.EINVAL: "invalid: a blackhole, or an address that no router forwards",
    errno.EXDEV: "refused by rp_filter: the way back to the source is not by this interface",
}
NS_SAYS = f"of program time, the fastest of {TIMED_RUNS} runs; recording is part of it, which live packets do not pay"


class Explainer:
    """Answers `explain` and `forward get`."""

    def __init__(
        self,
        attachments: Attachments,
        tables: OperatorTables,
        surroundings: Surroundings,
        interfaces: Interfaces,
        served: ServedHost,
    ) -> None:
        self._attachments = attachments
        self._tables = tables
        self._surroundings = surroundings
        self._interfaces = interfaces
        self._served = served
        self._runs = Runs(attachments.datapath)
        self._thread = ThreadPoolExecutor(1, "explain")

    async def explain(self, question: Question) -> Explanation:
        """Say what becomes of one packet, and why."""
        candidates = self._candidates(question.in_dev)
        return await self._in_thread(lambda: self._explained(question, candidates))

    async def tally(self, batch: Batch) -> Tallied:
        """Say what becomes of many, without the reasons."""
        candidates = self._candidates(batch.in_dev)
        return await self._in_thread(lambda: self._tallied(batch, candidates))

    async def forward_get(self, address: str, in_dev: str | None) -> ForwardAnswer:
        """Say what a packet to `address` would get; it comes in where it would not go out again."""
        try:
            candidates = self._candidates(in_dev)
        except Refused as error:
            return ForwardAnswer(address=address, verdict="NOT_ATTACHED", why=[str(error)])
        fields = Fields(dst=address)
        return await self._in_thread(lambda: self._answered(fields, candidates))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Let go of the programs, once no question is being answered."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._runs.close()

    # by which interface

    def _candidates(self, in_dev: str | None) -> list[Ingress]:
        """Return the interfaces that it can come in by, at least one; in the event loop, which they belong to."""
        if in_dev is not None:
            self._interfaces.named(in_dev)
        found = []
        for index, attachment in list(self._attachments.by_index.items()):
            link = self._surroundings.watch.links.get(index)
            if link is not None and in_dev in (None, link.name):
                found.append(Ingress(index, attachment.slot, link.name, attachment.mode, self._mac(attachment.slot)))
        if found:
            return found
        if in_dev is None:
            raise Refused("no interface is attached: `hopline interface add DEV`")
        raise Refused(f"{in_dev} is not attached: {self._interfaces.problems.get(in_dev, 'it does not exist')}")

    def _mac(self, slot: int) -> bytes:
        word = int(self._attachments.datapath.interfaces[slot]["mac"])
        return bytes.fromhex(word_mac(word).replace(":", ""))

    def _ingress(self, candidates: list[Ingress], source: str | None, frame: bytes | None) -> Iterator[Ingress]:
        """Yield interfaces to try until one will do, and say why that one."""
        if len(candidates) == 1:
            yield candidates[0]
            return
        for one in candidates:
            if frame is not None and frame[:6] == one.mac:
                yield replace(one, chosen="the frame is addressed to its MAC")
                return
        if frame is not None:
            names = ", ".join(one.name for one in candidates)
            raise InvalidInput("in", "missing, and the frame is addressed to none of the interfaces", f"give {names}")
        if source is not None:
            back = self.route(source, None, 0)
            for one in candidates:
                if isinstance(back, MatchedRoute) and back.answer.index == one.index:
                    yield replace(one, chosen=f"the way back to {source} is by it")
                    return
        for one in candidates:
            yield replace(one, chosen="the first that it would not leave by again")

    # one packet

    def _explained(self, question: Question, candidates: list[Ingress]) -> Explanation:
        frame, captured, fields = _asked(question)
        scene, ns = self._run(candidates, question.src, frame, fields, captured)
        entry = scene.entry
        return Explanation(
            in_dev=scene.ingress.name,
            mode=scene.ingress.mode,
            verdict=scene.verdict,
            says=verdict_words(scene.verdict),
            steps=steps_of(scene),
            packet=decoded(scene.frame),
            out_dev=scene.device(scene.out_index) if scene.sent else None,
            leaves=left_decoded(scene),
            origin="learned" if scene.learned else "operator" if entry else None,
            entry=entry[0] if entry else None,
            via=scene.via,
            cached=scene.found == "CACHE",
            then=then_of(scene),
            unseen=unseen_of(scene),
            ns=ns,
            ns_says=NS_SAYS,
            notes={
                name: read_note(scene.layout, kind, scene.event[name]) for name, kind in notes_of(scene.layout).items()
            },
        )

    def _run(
        self, candidates: list[Ingress], source: str | None, frame: bytes | None, fields: Fields | None, captured: int
    ) -> tuple[Scene, int]:
        """Run the frame, or one made of fields, by the first interface that will do."""
        first: tuple[Scene, int] | None = None
        for ingress in self._ingress(candidates, source, frame):
            packet = frame if fields is None else probe_frame(fields, ingress.mac)
            assert packet is not None
            ran = self._runs.one(ingress, packet)
            datapath = self._attachments.datapath
            known = captured or len(packet)
            scene = Scene(ingress, packet, ran.left, known, ran.event, datapath.layout, datapath.learned_base, self)
            first = first or (scene, ran.ns)
            if int(scene.note["ifindex"]) != ingress.index:
                return scene, ran.ns
        assert first is not None
        return first

    def _answered(self, fields: Fields, candidates: list[Ingress]) -> ForwardAnswer:
        scene, _ = self._run(candidates, None, None, fields, 0)
        note, entry = scene.note, scene.entry
        link = self.link(int(note["ifindex"]))
        ready = scene.verdict == "FORWARDED"
        # the interface is chosen here as it always was, so there is nothing to say about it
        scene = replace(scene, ingress=replace(scene.ingress, chosen=""))
        return ForwardAnswer(
            address=fields.dst,
            verdict=scene.verdict,
            dev=link.name if link else None,
            src_mac=word_mac(int(note["source"])) if ready else None,
            dst_mac=word_mac(int(note["destination"])) if ready else None,
            mtu=int(note["destination"]) >> 48 or None,
            origin="learned" if scene.learned else "operator" if entry else None,
            entry=entry[0] if entry else None,
            via=scene.via if scene.via != fields.dst else None,
            cached=scene.found == "CACHE",
            why=[step.says for step in steps_of(scene)],
        )

    # many

    def _tallied(self, batch: Batch, candidates: list[Ingress]) -> Tallied:
        if len(candidates) > 1:
            names = ", ".join(one.name for one in candidates)
            raise InvalidInput("in", "missing, and there are several interfaces", f"give one of {names}")
        lengths = list(map(len, batch.frames)) if batch.lengths is None else batch.lengths
        records = self._runs.many(candidates[0], batch.frames, lengths)
        verdicts, first, place = np.unique(records["verdict"], return_index=True, return_inverse=True)
        octets = np.bincount(place, lengths).astype(int)
        packets = np.bincount(place)
        names = self._attachments.datapath.verdicts
        found = zip(verdicts.tolist(), packets.tolist(), octets.tolist(), first.tolist(), strict=True)
        return Tallied(
            in_dev=candidates[0].name,
            packets=len(records),
            verdicts={names(verdict).name: Tally(count, size, at) for verdict, count, size, at in found},
        )

    # the host, for those who say it in words

    def link(self, index: int) -> Link | None:
        """Return a device."""
        return self._surroundings.watch.links.get(index)

    def forbids(self, index: int, family: int) -> list[str]:
        """Return what keeps a device from learning."""
        return self._surroundings.forbids(index, family)

    def entry(self, address: str) -> tuple[str, NextHop] | None:
        """Return the operator's entry that covers an address."""
        to = self._tables.entry_for(address)
        found = self._tables.entry(to) if to is not None else None
        return found[:2] if found else None

    def route(self, address: str, source: str | None, iif: int) -> MatchedRoute | str:
        """Return the kernel's own route for a packet, or why it has none."""
        try:
            return matched_route(address, source=source, iif=iif)
        except KernelError as error:
            return _NO_ROUTE.get(error.errno, f"not known ({error})")

    def neighbour(self, index: int, address: str) -> SeenNeighbour | None:
        """Return what the kernel knows of a neighbour."""
        try:
            return seen_neighbour(index, address)
        except KernelError:
            return None

    def service(self, row: int) -> Service | None:
        """Return the service in a row of the kernel's."""
        return self._served.service(row)

    def backend(self, row: int, number: int) -> SeenBackend | None:
        """Return the backend that has a number in a service's row."""
        return self._served.backend(row, number)

    def decap(self, row: int) -> Decap | None:
        """Return the entry of decap whose counter is in a row."""
        return self._served.decap(row)

    def decaps(self, local: str, encap: str) -> list[Decap]:
        """Return the entries of decap for a local address."""
        return self._served.decaps(local, encap)


def _asked(question: Question) -> tuple[bytes | None, int, Fields | None]:
    """Return the frame with zeros for what was not captured, and how much was; or what to make one of."""
    if question.hex is None:
        names = ("dst", "src", "protocol", "sport", "dport", "flags", "ttl", "size", "vlan")
        return None, 0, Fields(**{name: getattr(question, name) for name in names})
    frame = hex_frame(question.hex)
    return frame.ljust(question.length or 0, b"\0"), len(frame), None
