"""`serve --trace`: one line for each packet's decision, from the program's own records."""

import asyncio
import logging
from datetime import datetime
from ipaddress import ip_address
from typing import TextIO

import numpy as np

from hopline.daemon.attachments import Attachments
from hopline.features.forward import word_mac
from hopline.kernel import RingBuffer
from hopline.kernel.netlink import query

EVERY_S = 0.02

log = logging.getLogger("hopline")


def decision(attachments: Attachments, event: np.void, names: dict[int, str]) -> str:
    """Return one record as a line: interface, addresses, verdict and next hop."""
    packet, note = event["packet"], event["forward"]
    layout = attachments.datapath.layout
    verdict = layout.enum("verdict")(int(event["verdict"])).name
    line = f"{names.get(int(event['ifindex']), int(event['ifindex']))} {flow(packet)} {verdict}"
    if verdict != "FORWARDED":
        return line
    found = layout.enum("lookup")(int(note["found"])).name.removeprefix("LOOKUP_").lower()
    first, base = attachments.datapath.ids.ADJACENCY_ID_FIRST, attachments.datapath.learned_base
    origin = "operator" if first <= note["adjacency"] < base else "learned"
    out = names.get(int(note["ifindex"]), int(note["ifindex"]))
    source, destination = word_mac(int(note["source"])), word_mac(int(note["destination"]))
    return f"{line} by {origin} entry ({found}) to {out} {source} > {destination}"


def flow(packet: np.void) -> str:
    """Return who sends to whom, or the EtherType of what is not IP."""
    family = int(packet["family"])
    if not family:
        return f"ethertype {int(packet['ethertype']):#06x}"
    size = 4 if family == 4 else 16
    source, destination = (ip_address(packet[name].tobytes()[:size]) for name in ("source", "destination"))
    return f"{source} > {destination} proto {int(packet['protocol'])} ttl {int(packet['ttl'])}"


async def print_decisions(attachments: Attachments, out: TextIO) -> None:
    """Print decisions of every attached interface until cancelled; a reader that goes away ends only the printing."""
    try:
        await _print_decisions(attachments, out)
    except BrokenPipeError:
        log.warning("nobody reads the trace any more: it is not printed")
        await asyncio.Event().wait()


async def _print_decisions(attachments: Attachments, out: TextIO) -> None:
    rings: dict[int, RingBuffer] = {}
    dtype = attachments.datapath.layout.struct("trace_event")
    while True:
        for attachment in list(attachments.by_index.values()):
            if attachment.program.id not in rings:
                rings[attachment.program.id] = RingBuffer(attachment.object.map("trace_events"))
        for id in set(rings) - {attachment.program.id for attachment in list(attachments.by_index.values())}:
            rings.pop(id).close()
        names: dict[int, str] = {}
        for ring in rings.values():
            events = ring.drain().records(dtype)
            if len(events) and not names:
                names = {link.index: link.name for link in query.links()}
            for event in events:
                print(f"{datetime.now():%H:%M:%S.%f} {decision(attachments, event, names)}", file=out, flush=True)
        await asyncio.sleep(EVERY_S)
