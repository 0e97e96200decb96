"""A datapath of dictionaries, which steps act on as they do on the kernel's, and tables to plan between."""

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from hopline.config import Decap, Interface, Service
from hopline.daemon.plan import Running, Tables
from hopline.features.forward import Adjacency, table_of

DESTINATIONS = [f"10.0.0.{i}" for i in range(5)] + ["10.1.0.0/16", "10.2.0.0/16", "fd00::1", "fd00::2", "fd01::/32"]
IDS = range(2, 9)
DECAPS = [Decap("10.9.0.2", source) for source in ("10.1.0.0/16", "10.1.0.1", "any")]
DEVICES = ["eth0", "eth1", "eth2"]


class Model:
    """Entries and adjacencies, and every call in order; `before` is called ahead of each single write."""

    def __init__(self, tables: Tables, before=lambda what: None) -> None:
        self.entries = dict(tables.entries)
        self.adjacencies = dict(tables.adjacencies)
        self.interfaces = dict(tables.interfaces)
        self.services = dict(tables.services)
        self.decaps = dict(tables.decaps)
        self.running = tables.running
        self.calls: list[str] = []
        self.before = before

    def tables(self) -> Tables:
        return Tables(
            dict(self.entries),
            dict(self.adjacencies),
            dict(self.interfaces),
            dict(self.services),
            dict(self.decaps),
            self.running,
        )

    def dangling(self) -> dict[str, int]:
        """Entries that point at nothing."""
        return {to: id for to, id in self.entries.items() if id not in self.adjacencies}

    def write_adjacency(self, id: int, adjacency: Adjacency) -> None:
        self._about("write_adjacency")
        self.adjacencies[id] = adjacency

    def retire_adjacency(self, id: int) -> None:
        self._about("retire_adjacency")
        self.adjacencies.pop(id, None)

    def put_entries(self, table: str, entries: Mapping[str, int]) -> None:
        for to, id in entries.items():
            self._about("put_entries")
            assert table_of(to) == table
            self.entries[to] = id

    def drop_entries(self, table: str, destinations: Sequence[str]) -> None:
        for to in destinations:
            self._about("drop_entries")
            assert table_of(to) == table
            self.entries.pop(to, None)

    def bump_generation(self) -> None:
        self._about("bump_generation")

    def attach_interface(self, before: Interface | None, after: Interface) -> None:
        self._about("attach_interface")
        self.interfaces[after.name] = after

    def detach_interface(self, name: str) -> None:
        self._about("detach_interface")
        self.interfaces.pop(name, None)

    def run_with(self, running: Running) -> None:
        self._about("run_with")
        self.running = running

    def put_service(self, service: Service) -> None:
        self._about("put_service")
        assert (self.running or Running()).balancing, "no program balances"
        self.services[service.name] = service

    def drop_service(self, name: str) -> None:
        self._about("drop_service")
        self.services.pop(name, None)

    def put_decaps(self, decaps: Sequence[Decap]) -> None:
        for decap in decaps:
            self._about("put_decaps")
            assert (self.running or Running()).decapsulating, "no program decapsulates"
            self.decaps[decap.key] = decap

    def drop_decaps(self, decaps: Sequence[Decap]) -> None:
        for decap in decaps:
            self._about("drop_decaps")
            self.decaps.pop(decap.key, None)

    def _about(self, what: str) -> None:
        self.before(what)
        self.calls.append(what)


@st.composite
def consistent_tables(draw) -> Tables:
    """Tables whose entries all point at adjacencies that exist; some adjacencies may have no entry. And interfaces."""
    contents = st.builds(Adjacency, st.sampled_from(["READY", "UNRESOLVED", "NO_DEVICE"]), st.integers(0, 2))
    adjacencies = draw(st.dictionaries(st.sampled_from(IDS), contents))
    names = draw(st.sets(st.sampled_from(DEVICES)))
    interfaces = {name: Interface(name, draw(st.sampled_from(["auto", "native"]))) for name in names}
    called = draw(st.sets(st.sampled_from(["web", "mail"])))
    services = {name: Service(name, "10.9.0.1", draw(st.sampled_from(["80", "81"])), "tcp") for name in called}
    decaps = {decap.key: decap for decap in draw(st.sets(st.sampled_from(DECAPS)))}
    balance = {"services": services, "decaps": decaps, "running": Running(bool(services), bool(decaps))}
    if not adjacencies:
        return Tables(interfaces=interfaces, **balance)
    ids = st.sampled_from(sorted(adjacencies))
    return Tables(draw(st.dictionaries(st.sampled_from(DESTINATIONS), ids)), adjacencies, interfaces, **balance)
