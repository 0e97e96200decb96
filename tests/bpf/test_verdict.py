"""verdict: the one way out. What is counted, what is recorded, and that a dry run does neither."""

import numpy as np
import pytest

from bpf import test_forward, test_parse
from bpf.frames import ip4, ip6
from bpf.pipeline import IN_MAC, Hop
from hopline.features.forward import mac_word, parse_mac

A = Hop("02:00:00:00:0a:01", "02:00:00:00:0a:02")
ALL = (*test_forward.CASES, *test_parse.CASES)
# each in a test of its own: test_push.py, test_balance.py, test_decap.py
CLAIMED = {"BALANCED", "DECAPSULATED", "ANSWERED_ECHO", "ANSWERED_ERROR", "DROP_NO_BACKEND", "DROP_FRAGMENT",
           "DROP_TOO_BIG", "DROP_NOT_ACCEPTED", "DROP_MALFORMED"}  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
def test_every_field_of_the_note(pipeline, family):
    id = pipeline.forward("198.51.100.7" if family == 4 else "2001:db8:f::7", A)
    _, event = pipeline.trace(ip4() if family == 4 else ip6())
    note = event["forward"]
    addresses = ("next_hop", "fib_asked", "fib_gateway")
    assert [note[name].tobytes() for name in addresses] == [bytes(16)] * 3  # given by MAC, and the FIB was not asked
    found = {name: int(note[name]) for name in note.dtype.names if name not in addresses}
    assert found == {
        "lookups": pipeline.lookups("CACHE", "LOCAL", "EXACT"),
        "found": pipeline.lookups("EXACT"),
        "fib": -1,
        "adjacency": id,
        "generation": pipeline.datapath.generation,
        "ifindex": pipeline.out_index,
        "destination": mac_word(parse_mac(A.destination), 1500),
        "source": mac_word(parse_mac(A.source), pipeline.out_slot),
        "family": 0,
        "leased": 1,
        "mac": mac_word(parse_mac(IN_MAC), 0),
        "flags": int(pipeline.datapath.interfaces[pipeline.in_slot]["flags"]),
        "state": int(pipeline.datapath.states.ADJACENCY_READY),
        "refusal": 0,
        "fib_family": 0,
        "fib_ifindex": 0,
        "fib_mtu": 0,
        "reserved": 0,
    }


def test_only_the_ingress_counts(pipeline):
    before = pipeline.datapath.maps["verdict_count"].sums()["packets"].copy()
    pipeline.run(ip4())
    moved = np.nonzero(pipeline.datapath.maps["verdict_count"].sums()["packets"] - before)[0]
    assert {int(row) // pipeline.datapath.limits.VERDICT_SLOTS for row in moved} == {pipeline.in_slot}


def test_the_dry_run_leaves_every_map_as_it_was(world):
    world.datapath.extend_lease()
    world.leased = False
    before = world.contents()
    packets = [case.packet for case in ALL]
    for packet in packets:
        world.trace(packet)
    after = world.contents()
    assert [name for name in before if before[name] != after[name]] == []
    world.datapath.extend_lease()  # reading all maps may take longer than a lease
    world.run(ip4("10.0.2.2"))
    now = world.contents()
    changed = {name for name in before if before[name] != now[name]}
    assert changed - {"state"} == {"cache4", "adjacencies", "cache_misses", "verdict_count", "next_hop_count"}


def test_every_verdict_has_a_case(world):
    cases = {case.verdict for case in ALL}
    # CONTINUE is no way out: it says that the next step decides
    assert cases | CLAIMED == {verdict.name for verdict in world.datapath.verdicts} - {"CONTINUE"}


def test_every_sentence_is_said_once():
    sentences = [case.sentence for case in ALL]
    assert len(sentences) == len(set(sentences))
