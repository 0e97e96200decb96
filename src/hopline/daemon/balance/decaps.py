"""Whose outer headers are taken off: the tries of accepted pairs, and what the program looks at before them."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import numpy as np

from hopline.config import Decap
from hopline.daemon.balance.blocks import Blocks
from hopline.daemon.compare import octets
from hopline.daemon.datapath import Datapath
from hopline.errors import Refused
from hopline.features.balance import ENCAPSULATIONS, decap_key, family_of, packed
from hopline.kernel import Map

REST_S = 1.0  # far more than a program runs for


class Decaps:
    """Entries by key, each with its row of counters. Changes come one at a time; rows are read by any thread."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self.wanted: dict[str, Decap] = {}
        self.rows: dict[str, int] = {}
        self._free = Blocks(1, datapath.maps["decap_count"].max_entries)
        self._lock = threading.Lock()

    # changes: each packet finds a source accepted first, and the address looked at last

    def put(self, decaps: Iterable[Decap]) -> None:
        """Accept what entries say; again where that is accepted already."""
        with self._lock:
            for row, _ in self._free.free_rested(time.monotonic()):
                self._zero(row)
            for decap in decaps:
                taken = self.rows.get(decap.key) or self._free.take(1)
                if taken is None:
                    raise Refused(f"decap {decap.key}: there is no room for another pair of addresses")
                self.rows[decap.key] = taken
                self._trie(decap).set(decap_key(decap), taken)
                self.wanted[decap.key] = decap
            self._look()

    def drop(self, decaps: Iterable[Decap]) -> None:
        """Accept them no more; where one is not accepted it is no error."""
        with self._lock:
            gone = list(decaps)
            for decap in gone:
                self.wanted.pop(decap.key, None)
            self._look()
            for decap in gone:
                self._trie(decap).delete(decap_key(decap))
                row = self.rows.pop(decap.key, None)
                if row is not None:
                    self._free.give_back(row, 1, time.monotonic() + REST_S)

    def _trie(self, decap: Decap) -> Map:
        return self.datapath.maps[f"decap{family_of(decap.local)}"]

    def _zero(self, row: int) -> None:
        counters = self.datapath.maps["decap_count"]
        counters.set(row, np.zeros(counters.ncpu, counters.value_dtype))

    def _look(self) -> bool:
        """Have the program look at the addresses and ports of all entries, and no others; return what was amiss."""
        amiss = False
        bits: Counter[str] = Counter()
        ports: set[int] = set()
        for decap in self.wanted.values():
            bits[decap.local] |= 1 << ENCAPSULATIONS[decap.encap]
            if decap.encap == "gue":
                ports.add(decap.gue_port)
        field = self.datapath.maps["decap_ports"].mmap()["ports"][0]
        wanted = [*sorted(ports), *[0] * (len(field) - len(ports))]
        if field.tolist() != wanted:
            field[...], amiss = wanted, True
        for family in (4, 6):
            table = self.datapath.maps[f"decap_local{family}"]
            want = {packed(local): value for local, value in bits.items() if family_of(local) == family}
            keys, values = table.items()
            have = dict(zip(octets(keys), values.tolist(), strict=True))
            for key, value in want.items():
                if have.get(key) != value:
                    table.set(key, value)
                    amiss = True
            for key in have.keys() - want.keys():
                table.delete(key)
                amiss = True
        return amiss

    # what is there

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return packets and octets that each entry took out, by key."""
        with self._lock:
            rows = dict(self.rows)
        found = {}
        for key, row in rows.items():
            value = self.datapath.maps["decap_count"].get(row)
            found[key] = (int(value["packets"].sum()), int(value["bytes"].sum()))
        return found

    # start, and drift

    def adopt(self, wanted: Mapping[str, Decap]) -> int:
        """Make the tables hold what is wanted; what is so already keeps its counters. Return how much was not."""
        with self._lock:
            by_key = {decap_key(decap): key for key, decap in wanted.items()}
            strays: list[tuple[Map, bytes]] = []
            rows: dict[str, int] = {}
            for family in (4, 6):
                table = self.datapath.maps[f"decap{family}"]
                keys, values = table.items()
                for octet, row in zip(octets(keys), values.tolist(), strict=True):
                    if octet in by_key and row not in rows.values() and row:
                        rows[by_key[octet]] = row
                    else:
                        strays.append((table, octet))
            self.wanted, self.rows = {key: wanted[key] for key in rows}, rows
            self._free = Blocks(1, self.datapath.maps["decap_count"].max_entries)
            self._free.claim((row, 1) for row in rows.values())
            amiss = len(strays) + self._look()
            for table, octet in strays:
                table.delete(octet)
        missing = [decap for key, decap in wanted.items() if key not in self.rows]
        self.put(missing)
        return amiss + len(missing)

    def recover(self) -> dict[str, Decap]:
        """Return the entries that the kernel has, for when the store is lost."""
        ports = [int(port) for port in self.datapath.maps["decap_ports"].mmap()["ports"][0] if port]
        names = {number: name for name, number in ENCAPSULATIONS.items()}
        found: dict[str, Decap] = {}
        for family, width in ((4, 4), (6, 16)):
            keys, _ = self.datapath.maps[f"decap{family}"].items()
            for octet in octets(keys):
                length = int.from_bytes(octet[:4], "little") - 32 - width * 8
                encap = names.get(int.from_bytes(octet[4:8], "big"))
                local, source = ip_address(octet[8 : 8 + width]), ip_address(octet[8 + width :])
                if encap is None or length < 0:
                    continue
                from_ = "any" if not length else str(source) if length == width * 8 else f"{source}/{length}"
                gue = {"gue_port": ports[0]} if encap == "gue" and ports else {}
                decap = Decap(local=str(local), from_=from_, encap=encap, **gue)  # type: ignore[arg-type]
                found[decap.key] = decap
        return found
