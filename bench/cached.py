"""ns a packet of the XDP program, for one cached destination: `.venv/bin/python bench/cached.py [OBJECT]`.

OBJECT is another build of xdp.bpf.o, to compare two. Each round runs 250 packets by BPF_PROG_TEST_RUN; printed are the
minimum and the median of 300 rounds, the kernel's own cost of a test run (about 20 ns) included. What it does not show:
many destinations (one cache line serves all), cold caches, the redirect itself, which a test run does not carry out.
The packet goes back to the interface it came in by, with a TTL of 255, so that the next of the round is the same but
for its TTL.
"""

import statistics
import sys
from pathlib import Path

from world import NAMESPACE, in_world

from hopline.daemon import datapath as dp
from hopline.daemon.ask import probe_packet
from hopline.daemon.attachments import Attachments
from hopline.features.forward import Adjacency, mac_word
from hopline.kernel import bpffs
from hopline.kernel.link import remove_pins
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features

ROUNDS, REPEAT, TTL = 300, 250, 255


def with_ttl(frame: bytes, ttl: int) -> bytes:
    """The frame with this TTL or hop limit and the checksum to it."""
    changed = bytearray(frame)
    if changed[14] >> 4 == 6:
        changed[21] = ttl
        return bytes(changed)
    changed[22], changed[24:26] = ttl, bytes(2)
    total = sum(int.from_bytes(changed[i : i + 2], "big") for i in range(14, 34, 2))
    total = (total & 0xFFFF) + (total >> 16)
    changed[24:26] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


def measure() -> None:
    datapath = dp.Datapath.open(NAMESPACE, 131_072)
    try:
        attachments = Attachments(datapath)
        ingress, egress = query.link("in0"), query.link("out0")
        for link in (ingress, egress):
            attachments.know(link, device_features(link))
        source = mac_word(egress.mac, attachments.slots[egress.index])
        hop = Adjacency("READY", mac_word(ingress.mac, 1500), source, egress.index)
        datapath.write_adjacency(datapath.ids.ADJACENCY_ID_FIRST, hop)
        pipeline = datapath.load_pipeline(attachments.slots[ingress.index], generic=False)
        program = pipeline.program(dp.PIPELINE)
        for destination, table in (("10.9.9.9", "forward_exact4"), ("2001:db8:9::9", "forward_exact6")):
            datapath.put_entries(table, {destination: datapath.ids.ADJACENCY_ID_FIRST})
            frame = with_ttl(probe_packet(destination, ingress.mac), TTL)
            rounds = []
            for _ in range(ROUNDS):
                datapath.extend_lease()
                rounds.append(program.test_run(frame, ifindex=ingress.index, repeat=REPEAT).duration_ns)
            print(f"{destination:16} min {min(rounds)} ns  median {statistics.median(rounds):g} ns")
        forwarded = datapath.maps["verdict_count"].sums()["packets"][datapath.verdicts.FORWARDED :: 32].sum()
        assert forwarded == 2 * ROUNDS * REPEAT, f"only {forwarded} were forwarded"
    finally:
        datapath.close()
        remove_pins(bpffs.instance_dir(NAMESPACE))


def main() -> None:
    if len(sys.argv) > 1:
        dp.OBJECT = Path(sys.argv[1])
    in_world(measure)


if __name__ == "__main__":
    main()
