"""The verb `explain` from Python: what is asked, what is answered (the JSON of the API and of `--json`), and asking it.

with hopline.connect() as client:
    client.explain.packet(dst="10.10.3.5").verdict
    client.explain.capture("mystery.pcapng", in_dev="enp0s9").verdicts
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hopline.config import device_name
from hopline.errors import InvalidInput
from hopline.features.probe import LONGEST_FRAME, SHORTEST_FRAME, Fields, hex_frame, probe_frame

if TYPE_CHECKING:
    from hopline.client import Client
    from hopline.host.pcap import Captured

BATCH_OCTETS = 3 << 19  # of frames in one request: base64 makes two MiB of them
BATCH_FRAMES = 10_000
# octets of a frame that are sent to be counted: more than all headers have; the program reads no payload. What is
# explained is sent whole.
COUNTED_OCTETS = 256


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"in_dev": "in"}):
    """One packet: its frame in `hex`, or what to make one of. A field that is None is chosen sensibly."""

    in_dev: str | None = None  # the interface it comes in by
    hex: str | None = None  # the frame, from its destination MAC on
    length: int | None = None  # octets that the frame had on the wire, where `hex` has only the first of them
    src: str | None = None
    dst: str | None = None  # without hex it must be given
    protocol: str | None = None  # tcp, udp, icmp, or a number
    sport: int | None = None
    dport: int | None = None
    flags: str | None = None  # of TCP, as letters: "S", "SA"
    ttl: int | None = None
    size: int | None = None  # octets of the IP packet
    vlan: int | None = None


class Step(msgspec.Struct, frozen=True):
    """One thing that was looked up or decided, and what was found, in words."""

    step: str
    says: str


class Field(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field of a header; `was` is what it held before, where the program changed it."""

    name: str
    value: str
    was: str | None = None


class Layer(msgspec.Struct, frozen=True):
    """One header, outermost first."""

    name: str
    fields: list[Field]


class Decoded(msgspec.Struct, frozen=True):
    """A frame."""

    octets: int
    hex: str
    layers: list[Layer]


class Explanation(msgspec.Struct, frozen=True, kw_only=True, rename={"in_dev": "in"}):
    """What becomes of one packet, and why."""

    in_dev: str
    mode: str  # native or generic
    verdict: str  # the name in enum verdict
    says: str  # the verdict in words
    steps: list[Step]
    packet: Decoded
    out_dev: str | None = None  # of a packet that XDP forwards, as are the next two
    leaves: Decoded | None = None
    origin: str | None = None  # whose answer it was: operator or learned
    entry: str | None = None  # the operator's destination that matched
    via: str | None = None
    cached: bool = False
    then: list[str] = []  # of a packet that is passed: what the kernel does next
    unseen: list[str] = []  # what a run without traffic cannot know
    ns: int  # of program time
    ns_says: str
    notes: dict[str, dict[str, Any]] = {}  # each step's record, field by field


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"in_dev": "in"}):
    """Many frames (base64 in JSON) that come in by one interface; `lengths` as in Question, if any was cut off."""

    in_dev: str | None = None
    frames: list[bytes]
    lengths: list[int] | None = None


def checked_question(question: Question) -> Question:
    """Return the question if a packet can be made of it; InvalidInput names the field that is wrong."""
    made = ("src", "dst", "protocol", "sport", "dport", "flags", "ttl", "size", "vlan")
    given = {name: getattr(question, name) for name in made if getattr(question, name) is not None}
    if question.in_dev is not None:
        device_name(question.in_dev, "in")
    if question.hex is not None:
        for name in given:
            raise InvalidInput(name, "given together with hex", "give the frame, or what to make one of")
        _check_length(question.length, len(hex_frame(question.hex)), "length")
        return question
    if question.length is not None:
        raise InvalidInput("length", "given without hex", "size is the length of a packet that is made")
    if question.dst is None:
        raise InvalidInput("dst", "missing", "give the address that the packet is for, or its frame in hex")
    probe_frame(Fields(**given), bytes(6))
    return question


def checked_batch(batch: Batch) -> Batch:
    """Return the batch if its frames can be run; InvalidInput names the first that cannot."""
    if batch.in_dev is not None:
        device_name(batch.in_dev, "in")
    if not 1 <= len(batch.frames) <= BATCH_FRAMES:
        raise InvalidInput("frames", f"{len(batch.frames)} of them", f"give 1 to {BATCH_FRAMES} a request")
    lengths = batch.lengths if batch.lengths is not None else [None] * len(batch.frames)
    if len(lengths) != len(batch.frames):
        raise InvalidInput("lengths", f"{len(lengths)} for {len(batch.frames)} frames", "give one for each, or none")
    for place, (frame, length) in enumerate(zip(batch.frames, lengths, strict=True)):
        if not SHORTEST_FRAME <= len(frame) <= LONGEST_FRAME:
            hint = f"give {SHORTEST_FRAME} to {LONGEST_FRAME} octets"
            raise InvalidInput(f"frames[{place}]", f"{len(frame)} octets are no Ethernet frame", hint)
        _check_length(length, len(frame), f"lengths[{place}]")
    return batch


def _check_length(length: int | None, held: int, field: str) -> None:
    if length is not None and not held <= length <= LONGEST_FRAME:
        raise InvalidInput(field, f"{length} is out of range", f"give {held} to {LONGEST_FRAME}")


class Tally(msgspec.Struct, frozen=True):
    """How many frames got one verdict, and the place of the first of them, from 0."""

    packets: int
    bytes: int
    first: int


class Tallied(msgspec.Struct, frozen=True, kw_only=True, rename={"in_dev": "in"}):
    """What became of many frames: a tally for each verdict that occurred."""

    in_dev: str
    packets: int
    verdicts: dict[str, Tally]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One verdict in a capture file: how many packets got it, and its first one explained."""

    verdict: str
    packets: int
    bytes: int
    share: float  # of the packets that were run, 0 to 1
    first: int  # number of the packet, from 1, as other tools count
    explanation: Explanation


class CaptureExplained(msgspec.Struct, frozen=True, kw_only=True, rename={"in_dev": "in"}):
    """What became of the packets of a file, the most frequent verdict first."""

    in_dev: str | None
    file: str
    format: str  # pcap or pcapng
    packets: int
    cut: int  # packets that were not captured whole: zeros stand for the rest
    skipped: int  # frames too short or too long for an Ethernet frame of an IP packet: not run
    incomplete: str | None  # why reading ended before the end of the file
    verdicts: list[Share]


class ExplainVerbs:
    """What would be done with a packet, and why; nothing is changed by asking."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def packet(self, **fields: Any) -> Explanation:
        """Explain a packet made of fields: dst and, of Question, in_dev, src, protocol, sport, dport, flags, ttl …"""
        return self.ask(Question(**fields))

    def frame(self, frame: bytes, *, in_dev: str | None = None, length: int | None = None) -> Explanation:
        """Explain a frame, octet for octet; `length`: what it had on the wire, where this is the beginning of it."""
        return self.ask(Question(in_dev=in_dev, hex=frame.hex(), length=length))

    def ask(self, question: Question) -> Explanation:
        """Explain one packet; InvalidInput names the field that is wrong."""
        body = {name: value for name, value in msgspec.to_builtins(question).items() if value is not None}
        return self._client.ask("POST", "/explain", body=body, kind=Explanation, only_looks=True)

    def tally(self, batch: Batch) -> Tallied:
        """Say what becomes of many frames, without the reasons."""
        return self._client.ask("POST", "/explain/batch", body=batch, kind=Tallied, only_looks=True)

    def capture(self, path: str | Path, *, in_dev: str | None = None, limit: int | None = None) -> CaptureExplained:
        """Run the first `limit` packets of a pcap or pcapng file (all unless told); explain the first of each verdict.

        InvalidInput where it is no such file, or not of Ethernet frames.
        """
        from hopline.host.pcap import CaptureFile

        with CaptureFile(path) as source:
            totals = _Totals()
            for batch in _batches(source.packets(limit)):
                frames, lengths = [one.data[:COUNTED_OCTETS] for one in batch], [one.length for one in batch]
                answer = self.tally(Batch(in_dev=in_dev, frames=frames, lengths=lengths))
                in_dev = answer.in_dev
                totals.add(answer, batch)
            verdicts = [self._share(verdict, in_dev, totals) for verdict in totals.by_frequency()]
            return CaptureExplained(
                in_dev=in_dev,
                file=str(path),
                format=source.format,
                packets=totals.packets,
                cut=source.cut,
                skipped=source.skipped,
                incomplete=source.incomplete,
                verdicts=verdicts,
            )

    def _share(self, verdict: str, in_dev: str | None, totals: "_Totals") -> Share:
        packets, octets, first = totals.found[verdict]
        return Share(
            verdict=verdict,
            packets=packets,
            bytes=octets,
            share=packets / totals.packets,
            first=first.number,
            explanation=self.frame(first.data, in_dev=in_dev, length=first.length if first.cut else None),
        )


class _Totals:
    """Tallies of batches, added up."""

    def __init__(self) -> None:
        self.packets = 0
        self.found: dict[str, tuple[int, int, Captured]] = {}

    def add(self, answer: Tallied, batch: "list[Captured]") -> None:
        self.packets += answer.packets
        for verdict, tally in answer.verdicts.items():
            packets, octets, first = self.found.get(verdict, (0, 0, batch[tally.first]))
            self.found[verdict] = (packets + tally.packets, octets + tally.bytes, first)

    def by_frequency(self) -> list[str]:
        return sorted(self.found, key=lambda verdict: (-self.found[verdict][0], verdict))


def _batches(packets: "Iterator[Captured]") -> "Iterator[list[Captured]]":
    """Yield the packets in lists that a request's body has room for."""
    held: list[Captured] = []
    octets = 0
    for one in packets:
        if held and (octets > BATCH_OCTETS or len(held) == BATCH_FRAMES):
            yield held
            held, octets = [], 0
        held.append(one)
        octets += COUNTED_OCTETS
    if held:
        yield held
