"""Whether the model of balance and the shipped program agree; `python -m model.agree_balance` with tests/ on the path.

    --seed N      another draw than that of `make test`
    --packets N   how many frames, 5,000 unless told

Frames run one after another, since a frame may make the program remember a flow. HOPLINE_TEST_OBJECT=… names another
object file than the shipped one. The exit status is 1 where they do not agree; what is printed then is the frame, the
smallest services, and both answers.
"""

import argparse
import contextlib
import dataclasses
import itertools
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings

from bpf.balance_maps import ESTABLISHED, FINISHED, GUE, IPIP, UDP, BackendRow, BalanceMaps, ServiceMaps
from bpf.pipeline import XDP_PASS, XDP_REDIRECT
from model import services as known
from model.agree import FRAMES, ROUND, Disagreement
from model.balance import answer_balanced
from model.draw import SEEDS
from model.draw_services import frames, worlds
from model.model import FIRST_BUFFER, Answer
from model.routers import Shipped, open_shipped
from model.services import Memory, Services
from model.table import BITS, Hop, Table, simpler, without

XDP_DROP, XDP_TX = 1, 3
PROTOCOLS = {frozenset({known.TCP}): "tcp", frozenset({known.UDP}): "udp", frozenset({known.TCP, known.UDP}): "both"}
FLOWS = 1 << 14  # ways: room for every flow of a table


def action_of(table: Table, said: Answer) -> int:
    """What the program says to XDP. Answers are redirected back where that can be, as a veth delivers those surely."""
    verdict = said.verdict
    if verdict.startswith("ANSWERED"):
        return XDP_TX if table.generic or len(said.frame) > FIRST_BUFFER else XDP_REDIRECT
    kinds = {"FORWARDED": XDP_REDIRECT, "BALANCED": XDP_REDIRECT, "DECAPSULATED": XDP_PASS}
    return kinds.get(verdict) or {"PASS": XDP_PASS, "DROP": XDP_DROP}[verdict.partition("_")[0]]


class Balancing:
    """The shipped program with balance and decap on, over services of its own."""

    def __init__(self, shipped: Shipped) -> None:
        self.shipped, self.datapath = shipped, shipped.datapath
        self.datapath.switch(balancing=True, decapsulating=True)
        self.maps = BalanceMaps(self.datapath, flows=FLOWS)
        self._services: list[ServiceMaps] = []
        shipped.use(shipped.pipeline.load(generic=False), shipped.pipeline.load(generic=True))

    def write(self, table: Table, services: Services) -> None:
        """Make the maps say what these do; nothing is remembered."""
        self.shipped.write(table)
        self.maps.clear()
        self.maps.set_clock(services.clock)
        hops = {
            backend.hop: self._hop(backend.hop)
            for backend in dict.fromkeys(each for service in services.services for each in service.backends)
        }
        self._services = [self._service(service, services, hops) for service in services.services]
        self._write_decaps(services)

    def _hop(self, hop: Hop) -> int:
        id = self.maps.hop("02:00:00:00:0e:01", "02:00:00:00:0e:02", 0, 0)
        self.datapath.write_adjacency(id, self.shipped.adjacency(hop))
        if hop.state == "RETIRING":
            self.datapath.retire_adjacency(id)
        return id

    def _service(self, service: known.Service, services: Services, hops: dict[Hop, int]) -> ServiceMaps:
        vip = services.vips[service.vip]
        port = "any" if service.any_port else f"{service.first}-{service.last}"
        made = self.maps.service(
            str(service.vip),
            port,
            PROTOCOLS[service.protocols],
            [self._backend(each, hops) for each in service.backends],
            slots=max(len(service.ring), 1),
            seed=service.seed,
            remembers=service.remembers,
            local=vip.local,
            echo=vip.echo,
        )
        for number, slot in enumerate(service.ring):
            made.set_slot(number, slot.now, slot.before, slot.state)
        if not service.ring:
            made.record["ring"] = 0
        for number, backend in enumerate(service.backends):
            made.set_flags(number, *(["DRAINING"] * backend.draining + ["DEAD"] * backend.dead))
        return made

    def _backend(self, backend: known.Backend, hops: dict[Hop, int]) -> BackendRow:
        kind, port = (IPIP, 6080) if backend.gue is None else (GUE, backend.gue)
        ends = str(backend.destination), str(backend.source)
        return BackendRow(*ends, hops[backend.hop], encapsulation=kind, port=port, vary=backend.vary)

    def _write_decaps(self, services: Services) -> None:
        maps = self.datapath.maps
        for name in ("decap4", "decap6", "decap_local4", "decap_local6"):
            maps[name].delete_batch(maps[name].items()[0])
        for row, decap in enumerate(sorted(services.decaps, key=str), 1):
            kind, local = GUE if decap.gue else IPIP, decap.local.packed
            kinds = maps[f"decap_local{decap.local.family}"]
            kinds.set(local, int(kinds.get(local) or 0) | 1 << kind)
            source = decap.source.number.to_bytes(BITS[decap.source.family] // 8, "big")
            length = 32 + 8 * len(local) + decap.source.length
            key = struct.pack("=I", length) + struct.pack("!I", kind) + local + source
            maps[f"decap{decap.local.family}"].set(key, row)
        ports = maps["decap_ports"].mmap()["ports"]
        ports[:] = 0
        octets = b"".join(port.to_bytes(2, "big") for port in sorted(services.gue_ports))
        memoryview(ports.reshape(-1)).cast("B")[: len(octets)] = octets

    def remembered(self) -> Counter[tuple[int, int, int]]:
        """What is in the flow table: row of the service, number of the backend, flags."""
        return Counter((each.service, each.number, each.flags) for each in self.maps.flows())

    def wanted(self, services: Services, memory: Memory) -> Counter[tuple[int, int, int]]:
        """What should be."""
        rows = {id(service): made.row for service, made in zip(services.services, self._services, strict=True)}
        return Counter(
            (
                rows[id(flow[0])],
                entry.number,
                entry.established * ESTABLISHED | entry.finished * FINISHED | (flow[4] == known.UDP) * UDP,
            )
            for flow, entry in memory.items()
        )


@dataclass
class Both:
    """The model and the program."""

    balancing: Balancing
    verdicts: Counter[str] = field(default_factory=Counter)
    tables: int = 0
    remembered: int = 0

    def compare(self, table: Table, services: Services, sent: Sequence[bytes]) -> tuple[int, str] | None:
        """Say the first frame that they do not agree on, by its number, and how."""
        memory: Memory = {}
        answers = [answer_balanced(table, services, memory, frame) for frame in sent]
        self.balancing.write(table, services)
        outcomes = self.balancing.shipped.run(sent, answers, False)
        for number, (wanted, found) in enumerate(zip(answers, outcomes, strict=True)):
            right = wanted.verdict, action_of(table, wanted), wanted.frame
            if (found.verdict, found.action, found.data) != right:
                said = f"{found.verdict}, action {found.action}, {found.data.hex()}"
                return number, f"the program: {said}\nthe model: {wanted.verdict}, {wanted.frame.hex()}"
        here, there = self.balancing.wanted(services, memory), self.balancing.remembered()
        self.remembered += here.total()
        if here != there:
            return len(sent) - 1, f"the program remembers besides: {there - here}\nthe model: {here - there}"
        self._count(answers)
        return None

    def _count(self, answers: Iterable[Answer]) -> None:
        self.tables += 1
        self.verdicts.update(each.verdict for each in answers)

    def agree(self, table: Table, services: Services, sent: Sequence[bytes]) -> None:
        """Raise Disagreement, with as little of the services as it takes, where they do not agree."""
        found = self.compare(table, services, sent)
        if found is None:
            return
        number, said = found
        behind = sent[: number + 1]
        lone = self.compare(table, services, behind[-1:])
        if lone is not None:
            behind, said = behind[-1:], lone[1]
        tried = list(simpler_worlds(table, services))
        while tried:
            each = tried.pop()
            still = self.compare(*each, behind)
            if still is not None:
                (table, services), said = each, still[1]
                tried = list(simpler_worlds(table, services))
        raise Disagreement(f"{said}\nframes: {' '.join(each.hex() for each in behind)}\n{table}\n{services}")

    def __str__(self) -> str:
        each = ", ".join(f"{name} {count}" for name, count in self.verdicts.most_common())
        return f"{self.verdicts.total()} frames to {self.tables} routers, {self.remembered} flows remembered: {each}"


def simpler_worlds(table: Table, services: Services) -> Iterator[tuple[Table, Services]]:
    """The same with one thing less."""
    for each in simpler(table):
        yield each, services
    for name in ("decaps", "gue_ports"):
        for key in getattr(services, name):
            yield table, without(services, name, key)
    for number, service in enumerate(services.services):
        rest = services.services[:number] + services.services[number + 1 :]
        if rest:
            yield table, dataclasses.replace(services, services=rest)
        plain = dataclasses.replace(service, seed=0, remembers=False)
        if plain != service:
            yield table, dataclasses.replace(services, services=(*rest[:number], plain, *rest[number:]))


@contextlib.contextmanager
def open_both() -> Iterator[Both]:
    """The program in a router of its own."""
    with open_shipped() as shipped:
        yield Both(Balancing(shipped))


def explore(both: Both, packets: int, seed: int = 0) -> None:
    """Draw routers and frames until so many were compared, always the same for the same seed."""
    enough = both.verdicts.total() + packets
    for number in itertools.count():

        @hypothesis.seed(f"{seed} {number}")
        @settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(worlds(), SEEDS)
        def draw(world: tuple[Table, Services], seed: int) -> None:
            # each round begins with what is simplest, which is the same in all
            if seed and both.verdicts.total() < enough:
                both.agree(*world, frames(*world, seed, FRAMES))

        draw()
        if both.verdicts.total() >= enough:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packets", type=int, default=5000)
    asked = parser.parse_args()
    with open_both() as both:
        try:
            explore(both, asked.packets, asked.seed)
        except Disagreement as error:
            print(error)
            return 1
        print(both)
    return 0


if __name__ == "__main__":
    sys.exit(main())
