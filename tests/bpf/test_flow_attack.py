"""The flow table under attack: two processors fight for its ways by the million, and no connection changes its backend.

Connections of a few hundred clients crowd a table of sixteen ways, so that every insertion is a fight, while the slots
they fall on change and the clock runs. Each connection's later segments must go where the first of them went.
"""

import os
import random
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bpf.balanced import VIP4, Balanced, open_balanced
from bpf.driver import BURST_NS, FIRST_BURST
from bpf.pipeline import IN_MAC, NEAR_MAC
from clang import compile_bpf
from hopline.features.forward import parse_mac
from hopline.kernel import BpfObject, atomic_store32, netns

SOURCE = Path(__file__).with_name("flow_driver.bpf.c")
FRAME = bytes(54)
BEFORE, BACKENDS = 6, 6
SECONDS = 2.0


def run_packets(balanced: Balanced, opened: BpfObject, cpu: int, stop: threading.Event) -> None:
    """Run packets on one CPU until told to stop."""
    os.sched_setaffinity(0, {cpu})
    program, burst = opened.program("drive"), FIRST_BURST
    with netns.inside(balanced.pipeline.router):
        while not stop.is_set():
            ran = program.test_run(FRAME, ifindex=balanced.pipeline.in_index, repeat=burst)
            burst = max(FIRST_BURST, BURST_NS // max(ran.duration_ns, 1))


def attack(balanced: Balanced, clients: int) -> np.ndarray:
    """Fight for SECONDS; the tallies of all CPUs."""
    service = balanced.service(count=BACKENDS + 1, slots=11, idle=1 << 30)  # nobody is silent for so long
    service.fill(0, BEFORE, "OPEN")
    draw, stop = random.Random(1), threading.Event()
    with tempfile.TemporaryDirectory(prefix="hl-flow-driver-") as directory:
        built = compile_bpf(Path(directory), SOURCE.read_text(), "flow_driver")
        with BpfObject.open(built) as opened:
            opened.set_rodata(
                clients=clients, before=BEFORE, vip=int.from_bytes(socket.inet_aton(VIP4), "little"),
                frame_macs=np.frombuffer((parse_mac(IN_MAC) + parse_mac(NEAR_MAC)).ljust(16, b"\0"), np.uint64),
            )  # fmt: skip
            opened.load()
            opened.map("pipeline").set(0, balanced.pipeline.program.fd)
            cpus = sorted(os.sched_getaffinity(0))[:2]
            threads = [threading.Thread(target=run_packets, args=(balanced, opened, cpu, stop)) for cpu in cpus]
            for thread in threads:
                thread.start()
            ends = time.monotonic() + SECONDS
            while time.monotonic() < ends:
                balanced.pipeline.datapath.extend_lease()
                # a change of an open slot changes `now` alone
                word = draw.randrange(BACKENDS) | BEFORE << 12 | 1 << 24
                slot = draw.randrange(service.slots)
                atomic_store32(service.words[slot : slot + 1], word)
                balanced.maps.set_clock(balanced.maps.clock + draw.choice((0, 0, 1, 300)))
                time.sleep(0.0005)
            stop.set()
            for thread in threads:
                thread.join()
            return np.array(opened.map("tallies").get(0))


@pytest.mark.parametrize("clients", [3, 12, 200])
def test_no_connection_changes_its_backend(clients):
    with open_balanced(flows=16) as balanced:
        balanced.reset()
        tallies = attack(balanced, clients)
        totals = {name: int(tallies[name].sum()) for name in ("segments", "connections", "evicted", "wrong")}
        wrong = [{name: int(row[name]) for name in ("began", "stays", "got", "segment")} for row in tallies]
        assert totals["wrong"] == 0, f"{totals}: {wrong}"
        assert totals["connections"] > 1000, totals
        words = balanced.flow_words()
        assert not np.any(words & np.uint64(0xFFFF << 16) == np.uint64(0xFFFF << 16)), "a way was never given back"
