"""ns a packet of `balance`, over the harness: `.venv/bin/python bench/balance.py [--quick] [--json FILE]`.

A harness in front of each program takes off the outer header that the packet before was given, makes the packet whole
again, walks the flows by a permutation and tail-calls the program; with an empty program it is the row that is
subtracted, taking off nothing by the same call. All rows of one number of flows take turns in each round; before each
measured call there is one that is not. Printed are the minimum and the median of the rounds, how far both are over the
harness, and what one packet costs in instructions and the like. docs/performance.md explains the rows.

A service of 100 backends, each with a next hop of its own, in a ring of 65,537 slots; all counters are on. `--family`
and `--flows` measure a part. What no row shows: the redirect itself, the driver, two CPUs at once, cold caches.
"""

import argparse
import contextlib
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from balance_tables import ACK, RING, SYN, VIPS, Balance, Tables, open_balance, segment
from case import LINE, XDP_PASS, XDP_REDIRECT, XDP_TX, cache_size_for, no_preparation
from emulate import emulated
from record import Figure, save
from world import FIRST, SPAN, address4, address6, in_world, ones_complement_sum

from hopline.features.slots import State
from hopline.kernel import BpfObject, Program
from hopline.kernel.netlink import query

SOURCE = Path(__file__).with_name("balance.bpf.c")
FLOWS = (1, 65_536, 1_048_576)
PACKETS_LEAST = 20_000
WAY = 16  # octets of a flow table's
NO_ROOM = 0.01  # of the flows
MANY_VIPS = 1000
HEAD = (
    "family   flows {:42}    min  median  over: min  median instr calls looks lines"
    "   (ns; of one packet: instructions, helper calls, look-ups, lines of maps)"
)


@dataclass
class Sender:
    """The harness for one kind of packet: which of its programs, and the frame that it starts from."""

    harness: BpfObject
    program: str
    frame: bytes


@dataclass
class Row:
    """A program behind a sender. `hits`: of its packets, those that the flow table answers."""

    name: str
    sender: str
    program: Program
    expected: int
    balance: Balance | None = None
    hits: bool = False
    prepare: Callable[[], None] = no_preparation

    @property
    def base(self) -> str:
        """The row to subtract."""
        return "empty" if self.sender == "flow" else f"empty, {self.sender}"


@dataclass
class Case:
    """One family and number of flows: its senders, and the rows that take turns."""

    family: int
    flows: int
    ingress: int
    senders: dict[str, Sender]
    rows: list[Row] = field(default_factory=list)

    def run(self, row: Row, packets: int) -> int:
        """Return ns a packet of one call, the harness included."""
        sender = self.senders[row.sender]
        sender.harness.map("under_test").set(0, row.program.fd)
        if row.balance is not None:
            row.balance.datapath.extend_lease()
        done = sender.harness.program(sender.program).test_run(sender.frame, ifindex=self.ingress, repeat=packets)
        assert done.retval == row.expected, f"{row.name}: said {done.retval}, not {row.expected}: nothing is shown"
        return done.duration_ns


def compiled(directory: Path) -> Path:
    target = directory / "balance.bpf.o"
    flags = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I/usr/include/x86_64-linux-gnu"]
    subprocess.run(["clang", *flags, "-c", str(SOURCE), "-o", str(target)], check=True)
    return target


def swapped_sum(octets: bytes) -> int:
    """The ones' complement sum in the machine's order."""
    return ones_complement_sum(b"".join(octets[i : i + 2][::-1] for i in range(0, len(octets), 2)))


def ways_for(flows: int) -> int:
    """Of a flow table: twice as many as flows."""
    return max(4096, 2 * flows)


def open_sender(
    held: contextlib.ExitStack, path: Path, family: int, flows: int, destination: str, flags: int, program: str
) -> Sender:
    """A harness for segments to `destination`, walked over flows or, by another program of it, over destinations."""
    ingress, egress = query.link("in0"), query.link("out0")
    frame = segment(family, ingress.mac, destination, flags)
    harness = held.enter_context(BpfObject.open(path, f"b{family}{flows.bit_length()}"))
    walks_flows = program.startswith("flow")
    # of the IPv4 header, without check and the address that is walked
    header = frame[14:24] + bytes(2) + (frame[30:34] if walks_flows else frame[26:30])
    outer = bytes.fromhex("45000000 00004000 40040000 c000020a c0000264")
    harness.set_rodata(
        ethernet=frame[:14] + bytes(2),
        octets=len(frame),
        first=FIRST,
        bits=flows.bit_length() - 1,
        shift=SPAN - flows.bit_length() + 1,
        checksum=swapped_sum(header),
        ring_count=RING * 4 // LINE,
        flow_count=ways_for(flows) * WAY // LINE,
        outer_source=int.from_bytes(outer[12:16], "little"),
        outer_destination=int.from_bytes(outer[16:20], "little"),
        outer_checksum=swapped_sum(outer),
    )
    harness.resize("ring_lines", RING * 4 // LINE)
    harness.resize("flow_lines", ways_for(flows) * WAY // LINE)
    harness.load()
    harness.map("devices").set(0, egress.index)
    return Sender(harness, program, frame)


def open_case(held: contextlib.ExitStack, path: Path, family: int, flows: int) -> Case:
    vip, other = VIPS[family], address4(0) if family == 4 else address6(0)
    senders = {
        "flow": open_sender(held, path, family, flows, vip, ACK, f"flow{family}"),
        "SYN": open_sender(held, path, family, flows, vip, SYN, f"flow{family}"),
        "other": open_sender(held, path, family, flows, other, ACK, f"other{family}"),
    }
    case = Case(family, flows, query.link("in0").index, senders)
    case.rows = compared_rows(held, case) + balance_rows(held, case) + other_rows(held, case)
    return case


def compared_rows(held: contextlib.ExitStack, case: Case) -> list[Row]:
    """What balance is compared with."""
    harness, family = case.senders["flow"].harness, case.family

    def row(name: str, program: str, expected: int, sender: str = "flow") -> Row:
        return Row(name, sender, held.enter_context(harness.program(program)), expected)

    return [
        row("empty", "empty", XDP_PASS),
        row("empty, SYN", "empty", XDP_PASS, "SYN"),
        row("empty, other", "empty", XDP_PASS, "other"),
        row("one random line of the ring", f"ring_line{family}", XDP_TX),
        row("one random line of the flow table", f"flow_line{family}", XDP_TX),
        row("encapsulator", f"encapsulator{family}", XDP_TX),
        row("encapsulator, redirect_map", f"encapsulator_redirect{family}", XDP_REDIRECT),
        row("least possible, by the ring", f"least_ring{family}", XDP_REDIRECT),
        row("least possible, by the flow table", f"least_flow{family}", XDP_REDIRECT),
    ]


def balance_rows(held: contextlib.ExitStack, case: Case) -> list[Row]:
    family, ways = case.family, ways_for(case.flows)

    def row(name: str, state: State = State.CLOSED, sender: str = "flow", hits: bool = False, **tables: object) -> Row:
        wanted = Tables(**{"family": family, "outer": family, "flow_ways": ways, **tables})
        balance = open_balance(held, f"{family}-{len(names)}", wanted)
        names.append(name)
        balance.set_state(state)
        return Row(name, sender, balance.program, XDP_REDIRECT, balance, hits)

    names: list[str] = []
    rows = [
        row("closed"),
        row("closed, SYNs", sender="SYN"),
        row("open, in the flow table", State.OPEN, hits=True),
        row("residual, not in the flow table", State.RESIDUAL),
        row("open, SYNs that are remembered", State.OPEN, "SYN"),
        row("affinity table, in the flow table", hits=True, remembers=True),
        row("closed, GUE", gue=True),
    ]
    rows[4].prepare = rows[4].balance.forget
    if family == 4:
        rows.append(row("closed, IPv6 outside", outer=6))
    return rows


def other_rows(held: contextlib.ExitStack, case: Case) -> list[Row]:
    """Packets for no service: what forward costs, without services and with them."""
    plain = Tables(case.family, case.family, cache_size=cache_size_for(case.flows))
    wanted = {
        "forward, no services": replace(plain, balancing=False),
        "forward, beside a service": plain,
        f"forward, beside {MANY_VIPS:,} VIPs": replace(plain, vips=MANY_VIPS),
    }
    rows = []
    for number, (name, tables) in enumerate(wanted.items()):
        balance = open_balance(held, f"{case.family}-other-{number}", tables)
        rows.append(Row(name, "other", balance.program, XDP_REDIRECT, balance))
    return rows


def measured(case: Case, rounds: int) -> list[Figure]:
    """Let all rows take turns; each is run once over all flows before it is measured."""
    packets = max(PACKETS_LEAST, case.flows)
    found: dict[str, list[int]] = {row.name: [] for row in case.rows}
    for _ in range(rounds):
        for row in case.rows:
            case.run(row, case.flows)
            row.prepare()
            before = totals(row)
            found[row.name].append(case.run(row, packets))
            check(row, before, totals(row), packets)
    return [figure(case, row, found, packets) for row in case.rows]


def totals(row: Row) -> dict[str, int]:
    """What the program has counted so far."""
    if row.balance is None:
        return {}
    return {
        **row.balance.service.flow_count(),
        **{name: row.balance.counted(name) for name in ("BALANCED", "FORWARDED")},
    }


def check(row: Row, before: dict[str, int], after: dict[str, int], packets: int) -> None:
    """A row shows what it says only if its packets went that way."""
    moved = {name: after[name] - before[name] for name in after}
    if row.balance is None:
        return
    verdict = "FORWARDED" if row.sender == "other" else "BALANCED"
    assert moved[verdict] == packets, f"{row.name}: {moved} of {packets} packets"
    # where both of its buckets are full, a flow takes the place of another, or is refused
    assert moved["refused"] + moved["evicted"] <= NO_ROOM * packets, f"{row.name}: {moved}: the flow table is too small"
    assert not row.hits or moved["hits"] >= (1 - NO_ROOM) * packets, f"{row.name}: {moved} of {packets} packets"


def figure(case: Case, row: Row, found: dict[str, list[int]], packets: int) -> Figure:
    rounds, base = found[row.name], found[row.base]
    case.run(row, case.flows)
    cost = emulated(row.program, case.senders[row.sender].frame, case.ingress)
    assert cost.action == row.expected, f"{row.name}: the emulated program says {cost.action}: another path is counted"
    return Figure(
        family=case.family,
        destinations=case.flows,
        row=row.name,
        least=min(rounds),
        median=statistics.median(rounds),
        over_least=min(rounds) - min(base),
        over_median=statistics.median(rounds) - statistics.median(base),
        rounds=len(rounds),
        packets=packets,
        instructions=cost.instructions,
        calls=cost.calls.total(),
        lookups=cost.lookups.total(),
        lines=cost.map_lines,
    )


def tell(figures: list[Figure]) -> None:
    for one in figures:
        ns = f"{one.least:6} {one.median:7g}   {one.over_least:7} {one.over_median:7g}"
        counts = " ".join(f"{number:5}" for number in (one.instructions, one.calls, one.lookups, one.lines))
        print(f"IPv{one.family} {one.destinations:9} {one.row:42} {ns} {counts}", flush=True)


def rounds_for(flows: int, quick: bool) -> int:
    if quick:
        return 20 if flows < 65_536 else 6 if flows < 1_000_000 else 2
    return 200 if flows < 65_536 else 40 if flows < 1_000_000 else 10


def measure(asked: argparse.Namespace) -> None:
    figures: list[Figure] = []
    print(HEAD.format("row"), flush=True)
    with tempfile.TemporaryDirectory() as directory:
        path = compiled(Path(directory))
        for family in asked.family or (4, 6):
            for flows in asked.flows or FLOWS:
                with contextlib.ExitStack() as held:
                    case = open_case(held, path, family, flows)
                    figures += (found := measured(case, rounds_for(flows, asked.quick)))
                    tell(found)
    if asked.json is not None:
        save(asked.json, quick=asked.quick, figures=[asdict(one) for one in figures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less often")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--object", type=Path, metavar="FILE", help="measure another build of xdp.bpf.o")
    parser.add_argument("--family", type=int, choices=(4, 6), action="append")
    parser.add_argument("--flows", type=int, choices=FLOWS, action="append")
    asked = parser.parse_args()
    if asked.object is not None:
        from hopline.daemon import datapath

        datapath.OBJECT = asked.object
    in_world(lambda: measure(asked), full=False)


if __name__ == "__main__":
    main()
