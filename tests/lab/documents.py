"""Documents for a wide router, and as one value all that a change of the intent may touch.

near / far     an entry's next hop: the server behind `right`, or the other host behind `third`
document       the API's JSON of interfaces and entries; `put` applies it
Node           intent, store, history, programs and what the kernel's tables lead to, to be compared before and after
"""

import json
import sqlite3
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256

import numpy as np

import hopline
from hopline.daemon.protocol import Applied
from hopline.kernel import Map
from lab.net import sh
from lab.node import TABLES
from lab.traffic import Flow, wait_for

DEVICES = ("left", "right", "third")
# what changes by itself: counters, what was learned, the lease, and the scratch of one program
BY_ITSELF = {"verdict_count", "next_hop_count", "cache_misses", "cache4", "cache6", "state"}
MANY = 100_000
RETIRING = 5  # enum adjacency_state
ATTACHED = [{"name": "left"}, {"name": "right"}]
WITH_THIRD = [*ATTACHED, {"name": "third"}]


def near(net, to: str, **more: str) -> dict[str, str]:
    return {"to": to, "dev": "right", "dst_mac": net.server.mac, **more}


def far(net, to: str, **more: str) -> dict[str, str]:
    return {"to": to, "dev": "third", "dst_mac": net.other.mac, **more}


def document(forwards=(), interfaces=ATTACHED) -> dict[str, list]:
    return {"interface": list(interfaces), "forward": list(forwards)}


def put(daemon, content: dict[str, list], **query) -> Applied:
    """PUT /intent; numbers and flags as they are said in a query."""
    said = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
    return hopline.connect(daemon.instance).ask("PUT", "/intent", said, content, kind=Applied)


def many(count: int, first: str = "10.96") -> list[str]:
    """Addresses, at most 256 × 256 from `first`."""
    return [f"{first}.{number >> 8}.{number & 255}" for number in range(count)]


@dataclass
class Node:
    """`of` reads it. Of the kernel's tables: table → key → the id, and what the adjacency of that id says."""

    intent: dict[str, dict[str, dict]]
    stored: dict[str, list[tuple]]
    history: list
    revision: int
    pending: int | None
    programs: dict[str, int]
    kernel: dict[str, dict[bytes, tuple]]

    @classmethod
    def of(cls, net, daemon) -> "Node":
        client = hopline.connect(daemon.instance)
        status = client.status()
        return cls(
            intent=intent(daemon),
            stored=stored(daemon),
            history=client.history(),
            revision=status.revision,
            pending=status.pending.revision if status.pending else None,
            programs=programs(net.ns),
            kernel=kernel(daemon),
        )

    def differs(self, later: "Node") -> list[str]:
        """What is not the same, in a few words each: a comparison of many entries would be printed whole."""
        found = []
        for field in fields(self):
            before, after = getattr(self, field.name), getattr(later, field.name)
            if before == after:
                continue
            if not isinstance(before, dict):
                found.append(f"{field.name}: {before!s:.300} → {after!s:.300}")
                continue
            for name in before:
                if before[name] != after[name]:
                    found.append(f"{field.name}.{name}: {_unlike(before[name], after[name])}")
        return found


def _unlike(before, after) -> str:
    if isinstance(before, dict):
        before, after = before.items(), after.items()
    elif not isinstance(before, list):
        return f"{before} → {after}"
    gone, come = [x for x in before if x not in after], [x for x in after if x not in before]
    return f"{len(gone)} gone, as {gone[:2]}; {len(come)} come, as {come[:2]}"


def programs(ns: str) -> dict[str, int]:
    """The ids of the XDP programs on the devices of a namespace; 0 where there is none, or no device."""
    told = json.loads(sh(ns, "ip -j link show").stdout)
    found = {link["ifname"]: link.get("xdp", {}).get("prog", {}).get("id", 0) for link in told}
    return {dev: found.get(dev, 0) for dev in DEVICES}


def intent(daemon) -> dict[str, dict[str, dict]]:
    """GET /intent, by noun and key; without what an entry does not say."""
    told = hopline.connect(daemon.instance).ask("GET", "/intent", kind=dict[str, list[dict]])
    keys = {"interface": "name", "forward": "to"}
    given = {
        noun: [{name: value for name, value in entry.items() if value is not None} for entry in entries]
        for noun, entries in told.items()
    }
    return {noun: {entry[keys[noun]]: entry for entry in entries} for noun, entries in given.items()}


def forwards_of(content: dict[str, list]) -> dict[str, dict]:
    """The entries of a document by destination, as GET /intent has them where it is in force."""
    return {entry["to"]: entry for entry in content["forward"]}


def stored(daemon) -> dict[str, list[tuple]]:
    """All rows of the store, read by another program; a value that rows share by its number, in each of them."""
    with opened(daemon, "ro") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {table: list(database.execute(f'SELECT * FROM "{table}"')) for table in tables}
    for table in [table for table in tables if f"{table}_value" in rows]:
        values = {number: value for number, *value in rows.pop(f"{table}_value")}
        rows[table] = [(key, *values[number]) for key, number in rows[table]]
    return {table: sorted(found, key=str) for table, found in rows.items()}


@contextmanager
def opened(daemon, mode: str = "rw"):
    """The store's file, for sqlite; nothing is begun by itself."""
    path = daemon.directory / "state" / "hopline.db"
    with closing(sqlite3.connect(f"file:{path}?mode={mode}", uri=True, isolation_level=None)) as database:
        yield database


@contextmanager
def held_store(daemon):
    """Nobody else can write to the store, and a daemon that wants to waits for a second."""
    with opened(daemon) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")


def kernel(daemon) -> dict[str, dict[bytes, tuple]]:
    """What the operator's tables hold, and where it leads to."""
    with Map.from_pin(daemon.pins / "adjacencies") as adjacencies:
        rows = adjacencies.items()[1]

    @cache
    def meaning(id: int) -> tuple:
        return tuple(int(rows[id][name]) for name in ("state", "destination", "source", "ifindex"))

    return {table: {key: (id, meaning(id)) for key, id in raw(daemon, table).items()} for table in TABLES}


def raw(daemon, table: str) -> dict[bytes, int]:
    """One of the operator's tables: key → adjacency id; where it holds very many, a sum of it all → 0."""
    with Map.from_pin(daemon.pins / table) as held:
        keys, ids = held.items()
    size = keys.dtype.itemsize
    if len(keys) > MANY:
        order = np.argsort(keys)
        return {sha256(keys[order].tobytes() + ids[order].tobytes()).digest(): 0}
    octets = keys.tobytes()
    return {octets[i * size : (i + 1) * size]: id for i, id in enumerate(ids.tolist())}


def all_maps(daemon) -> dict[str, list]:
    """Every pinned map but for those that change by themselves, as bpftool has it."""
    names = {pin.name for pin in daemon.pins.iterdir() if not pin.name.startswith("link_")}
    assert names > BY_ITSELF
    dump = "bpftool -j map dump pinned"
    return {name: json.loads(sh(None, f"{dump} {daemon.pins / name}").stdout) for name in names - BY_ITSELF}


def flows(net) -> dict[str, Flow]:
    """A flow for each kind of entry in `around`, and where it may go is `fates`."""
    hosts = {
        "kept": "10.50.0.1", "changed": "10.50.0.2", "moved": "10.50.0.3", "kept prefix": "10.51.7.9",
        "kept ipv6": "fd00:50::1", "changed ipv6": "fd00:50::2",
    }  # fmt: skip
    return {name: Flow(net.client.ip6 if ":" in to else net.client.ip4, to) for name, to in hosts.items()}


def around(net, second: bool) -> list[dict[str, str]]:
    """Two documents' entries: some are in both, some differ, some are in one alone, also above and below those kept."""
    here = far if second else near
    kept = [near(net, "10.50.0.1"), near(net, "10.51.0.0/16"), near(net, "fd00:50::1")]
    changed = [here(net, "10.50.0.3")]
    if second:
        changed += [{"to": "10.50.0.2", "via": net.server.ip4}, {"to": "fd00:50::2", "via": net.server.ip6}]
        alone = [near(net, "10.51.7.9"), near(net, "10.51.0.0/24"), near(net, "fd00:50::/64")]
    else:
        changed += [near(net, "10.50.0.2"), near(net, "fd00:50::2", src_mac=net.right.mac)]
        alone = [near(net, "10.51.7.0/24"), near(net, "10.50.0.0/24"), near(net, "fd00::/16")]
    others = [here(net, to) for to in many(200, "10.61" if second else "10.62")]
    return kept + changed + alone + others


def assert_none_lost(traffic, net, moved: bool = True) -> None:
    """Every frame of every flow has arrived once, where its entry said at some time."""
    server, other = f"server {net.server.mac}", f"other {net.other.mac}"
    for name in traffic.flows:
        verdict = traffic.judge(name, {server, other} if name == "moved" and moved else server, 0)
        assert verdict.sent > 10, name
        assert verdict.wrong == 0, f"{name}: {verdict}"


def second(net) -> dict[str, list]:
    """The other of the two documents, which has an interface more."""
    return document(around(net, True), WITH_THIRD)


def ready(net, daemon):
    """The daemon, running, with the first of the two documents in force and nothing that waits."""
    if daemon.process is None:
        daemon.start()
    status = hopline.connect(daemon.instance).status()
    if status.pending:
        hopline.connect(daemon.instance).rollback(status.pending.revision - 1)
    put(daemon, document(around(net, second=False)))
    return daemon


def settled(daemon) -> None:
    """Wait until what devices did is looked at, a second after the event, and no adjacency is on its way out."""
    time.sleep(2)
    with Map.from_pin(daemon.pins / "adjacencies") as adjacencies:
        assert wait_for(lambda: RETIRING not in adjacencies.items()[1]["state"].tolist(), 10, 0.1)
