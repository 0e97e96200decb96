"""A service in memory behind the daemon's doors, for tests of the doors alone; it proves nothing about packets."""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from balance_double import BalanceDouble
from hopline.config import Forward, Interface, NextHop
from hopline.daemon.asker import asker
from hopline.daemon.front import Front
from hopline.daemon.options import serve_options
from hopline.daemon.protocol import (
    Applied,
    CacheState,
    Confirmed,
    Count,
    Counts,
    Difference,
    EntryCount,
    ForwardAnswer,
    ForwardRow,
    HistoryRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    Status,
)
from hopline.errors import InvalidInput, KernelError, NotFound, Refused
from hopline.explain import Decoded, Explanation, Field, Layer, Step, Tallied, Tally
from hopline.features.probe import Fields, hex_frame, probe_frame
from hopline.intent import NOUNS, Change, Wanted, difference

DEVICES = {"lo": 1, "enp0s3": 2, "enp0s9": 4}
OWN_MAC = "08:00:27:13:df:b6"
NEIGHBOUR_MAC = "08:00:27:f2:cb:f9"
LEARNED = ForwardRow(
    to="10.10.2.7", dev="enp0s3", src_mac=OWN_MAC, dst_mac=NEIGHBOUR_MAC, origin="learned", fresh="yes"
)


@dataclass
class _Past:
    """One change: what it did, and the intent after it."""

    number: int
    when: float
    by: str
    what: str
    change: Change
    after: Wanted


def _merged(noun, entries):
    return lambda have: Wanted({**have.entries, noun: {**have.of(noun), **entries}})


def _without(noun, keys):
    return lambda have: Wanted({**have.entries, noun: {k: v for k, v in have.of(noun).items() if k not in keys}})


def _applied(have, change):
    entries = {}
    for noun in NOUNS:
        delta, old = change.of(noun.name), have.of(noun.name)
        gone = set(delta.removed)
        entries[noun.name] = {k: v for k, v in old.items() if k not in gone} | dict(delta.after)
    return Wanted(entries)


def counts(change):
    """What a change touches, as the API says it."""
    return {
        name: Counts(len(delta.added), len(delta.changed), len(delta.removed))
        for name, delta in change.deltas.items()
        if delta
    }


def differences(change, limit):
    """What a change touches: of what is added, changed and removed as many as `limit` each."""
    for kind in ("added", "changed", "removed"):
        keys = [(noun, key) for noun in NOUNS for key in getattr(change.of(noun.name), kind)]
        for noun, key in keys[:limit]:
            delta = change.of(noun.name)
            yield Difference(noun.name, key, _fields(noun, delta.before, key), _fields(noun, delta.after, key))


def _fields(noun, side, key):
    if key not in side:
        return None
    values = msgspec.to_builtins(noun.entry(key, side[key]))
    return {name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items() if value is not None}  # fmt: skip


class ServiceDouble(BalanceDouble):
    def __init__(self):
        self.start_balance()
        self.entries = {}
        self.wanted = {}
        self.past = []  # one _Past for each change, the oldest first
        self.pending = None  # (number, when it runs out) of the change that waits to be confirmed
        self.asked = []  # what apply was called with
        self.learned = [LEARNED]
        self.questions = []
        self.batches = []
        self.detached = False
        self.fault = None

    def _check(self):
        if self.fault is not None:
            raise self.fault

    def state(self, interface):
        return InterfaceState(
            name=interface.name,
            index=DEVICES[interface.name],
            wanted_mode=interface.mode,
            mode="native" if interface.mode == "auto" else interface.mode,
            bypass_policy=interface.bypass_policy,
            attached=True,
            program="hopline",
            program_id=39,
            tag="24c0c136d96b2e7e",
            steps=["parse", "forward"],
            learning={"ipv4": True, "ipv6": False},
            forbids=["ipv6: forwarding is off: sysctl net.ipv6.conf.all.forwarding=1"],
            verdicts={"FORWARDED": Count(7, 686), "PASS_LOCAL": Count(0, 0)},
        )

    async def status(self):
        self._check()
        return Status(
            instance="main",
            version="0.1.0",
            pid=4711,
            uptime_s=3723.5,
            netns=4026531840,
            generation=3,
            lease_ms=900,
            interfaces=await self.interfaces(),
            entries=EntryCount(len(self.entries), len(self.learned)),
            cache=CacheState(size_ipv4=131072, size_ipv6=131072),
        )

    async def interface_add(self, interface, replace):
        self._check()
        if interface.name not in DEVICES:
            raise NotFound(f"interface add {interface.name}: no such device: `ip link` shows them")
        if interface.name in self.wanted and not replace:
            raise Refused(f"interface {interface.name} exists: use `hopline interface set`")
        self._record(f"interface add {interface.name}", _merged("interface", {interface.name: interface}))
        return InterfaceAdded(interface, self.state(interface), ["peer without GRO: packets may be lost"])

    async def interface_set(self, name, mode, bypass_policy):
        if name not in self.wanted:
            raise NotFound(f"interface {name}: not an interface of hopline's")
        old = self.wanted[name]
        new = Interface(name, mode or old.mode, old.bypass_policy if bypass_policy is None else bypass_policy)
        self._record(f"interface set {name}", _merged("interface", {name: new}))
        return InterfaceAdded(new, self.state(new))

    async def interface_del(self, name):
        if name not in self.wanted:
            raise NotFound(f"interface {name}: not an interface of hopline's")
        self._record(f"interface del {name}", _without("interface", [name]))

    async def interfaces(self):
        return [self.state(interface) for interface in self.wanted.values()]

    async def forward_put(self, forwards, replace):
        self._check()
        for forward in forwards:
            if forward.to in self.entries and not replace:
                raise Refused(f"forward {forward.to} exists: use replace")
        verb = "replace" if replace else "add"
        self._record(f"forward {verb} {forwards[0].to}", _merged("forward", {f.to: NextHop.of(f) for f in forwards}))

    async def forward_del(self, destinations):
        for to in destinations:
            if to not in self.entries:
                raise NotFound(f"forward {to}: no such entry")
        self._record(f"forward del {destinations[0]}", _without("forward", destinations))

    def _row(self, f: Forward):
        found = f.via != "10.10.3.99"  # the neighbour that never answers
        mac = (f.dst_mac or NEIGHBOUR_MAC) if found else None
        return ForwardRow(
            to=f.to,
            dev=f.dev or ("enp0s9" if found else None),
            src_mac=(f.src_mac or OWN_MAC) if found else None,
            dst_mac=mac,
            origin="operator",
            via=f.via,
            fresh="always" if found else "no neighbour",
        )

    async def forwards(self, to, origin, limit):
        self._check()
        rows = [self._row(forward) for forward in self.entries.values()] + self.learned
        rows = [row for row in rows if (to is None or row.to == to) and (origin is None or row.origin == origin)]
        return rows[:limit]

    async def next_hops(self):
        return [
            NextHopRow(
                id=1,
                dev="enp0s9",
                src_mac=OWN_MAC,
                dst_mac=NEIGHBOUR_MAC,
                mtu=1500,
                origin="operator",
                entries=1,
                packets=7,
                bytes=686,
            )
        ]

    async def forward_get(self, address, in_dev):
        self._check()
        return ForwardAnswer(
            address=address,
            verdict="FORWARDED",
            dev="enp0s9",
            src_mac=OWN_MAC,
            dst_mac=NEIGHBOUR_MAC,
            mtu=1500,
            origin="operator",
            entry="10.10.3.0/24",
            why=[f"in by {in_dev or 'any interface'}", "operator prefix 10.10.3.0/24"],
        )

    async def explain(self, question):
        self._check()
        self.questions.append(question)
        frame = hex_frame(question.hex) if question.hex else probe_frame(Fields(dst=question.dst), bytes(6))
        layers = [Layer("Ethernet", [Field("to", NEIGHBOUR_MAC, OWN_MAC), Field("type", "IPv4")])]
        return Explanation(
            in_dev=question.in_dev or "enp0s3",
            mode="native",
            verdict="FORWARDED",
            says="forwarded by XDP",
            steps=[Step("in", "came in by enp0s3 (native xdp)"), Step("verdict", "forwarded by XDP")],
            packet=Decoded(len(frame), frame.hex(), []),
            out_dev="enp0s9",
            leaves=Decoded(len(frame) - 4, frame.hex(), layers),
            unseen=["whether the device takes it"],
            ns=40,
            ns_says="of program time",
        )

    async def explain_batch(self, batch):
        self._check()
        self.batches.append(batch)
        octets = sum(batch.lengths)
        return Tallied(
            in_dev=batch.in_dev or "enp0s3",
            packets=len(batch.frames),
            verdicts={"FORWARDED": Tally(len(batch.frames), octets, 0)},
        )

    async def forward_flush(self):
        count, self.learned = len(self.learned), []
        return count

    async def detach(self):
        self.detached = True

    def _wanted(self):
        forwards = {to: NextHop.of(forward) for to, forward in self.entries.items()}
        balance = {"service": dict(self.services_by_name), "decap": dict(self.decap_entries)}
        return Wanted({"interface": dict(self.wanted), "forward": forwards, **balance})

    def _record(self, what, new, confirm_within=None):
        """Make the intent what the function `new` makes of it; return the change."""
        want = new(self._wanted())
        change = difference(self._wanted(), want)
        self.wanted = dict(want.of("interface"))
        self.entries = {to: hop.entry(to) for to, hop in want.of("forward").items()}
        self.services_by_name, self.decap_entries = dict(want.of("service")), dict(want.of("decap"))
        if change:
            self.past.append(_Past(len(self.past) + 1, time.time(), asker.get(), what, change, want))
            self.pending = None if confirm_within is None else (len(self.past), time.time() + confirm_within)
        return change

    async def intent(self):
        self._check()
        return self._wanted()

    async def apply(
        self, want, *, what="apply", merge=False, dry_run=False, confirm_within=None, revision=None, limit=0
    ):
        self._check()
        self.asked.append((what, merge, dry_run, confirm_within, revision, limit))
        number = len(self.past)
        if revision is not None and revision != number:
            raise Refused(f"{what}: the intent is at revision {number}, not {revision}: look at the difference again")
        if self.pending is not None and not dry_run:
            raise Refused(f"{what}: change {number} waits to be confirmed: `hopline confirm`, or `hopline rollback`")
        for place, (to, hop) in enumerate(want.of("forward").items()):
            if hop.dev is not None and hop.dev not in DEVICES:
                detail = f"{hop.dev} is no device here"
                raise InvalidInput(f"forward[{place}].dev", detail, "`ip link` lists them", key=to)
        self.check_services(want, merge)
        change = difference(self._wanted(), want, merge)
        if not dry_run:
            self._record(what, lambda have: _applied(have, change), confirm_within)
        return self._answer(change, dry_run, limit, None if dry_run or not change else confirm_within)

    def _answer(self, change, dry_run, limit, confirm_within=None):
        return Applied(
            revision=len(self.past),
            dry_run=dry_run,
            counts=counts(change),
            differences=list(differences(change, limit)),
            steps=0 if dry_run else sum(len(delta.after) + len(delta.removed) for delta in change.deltas.values()),
            confirm_within_s=confirm_within,
        )

    async def history(self):
        self._check()
        waits = self.pending and self.pending[0]
        return [
            HistoryRow(number=p.number, when=p.when, by=p.by, what=p.what, counts=counts(p.change),
                       pending=p.number == waits)
            for p in reversed(self.past)
        ]  # fmt: skip

    async def rollback(self, number, *, dry_run=False, limit=0):
        self._check()
        if number > len(self.past):
            raise NotFound(f"rollback {number}: no such change: `hopline history` lists 0 to {len(self.past)}")
        then = self.past[number - 1].after if number else Wanted()
        change = difference(self._wanted(), then)
        if not dry_run:
            self.pending = None
            self._record(f"rollback to {number}", lambda _: then)
        return self._answer(change, dry_run, limit)

    async def confirm(self):
        self._check()
        if self.pending is None:
            raise Refused("confirm: no change waits to be confirmed: see `hopline history`")
        number, self.pending = self.pending[0], None
        return Confirmed(number)

    def interface_index(self, name):
        return DEVICES.get(name)

    def interface_name(self, index):
        return {value: key for key, value in DEVICES.items()}.get(index)


KERNEL_FAULT = KernelError("write map forward_exact4", 28, "delete entries")


class Doors:
    """A Front over a ServiceDouble, served by an event loop in a thread of its own."""

    def __init__(self, run: Path, **options):
        self.service = ServiceDouble()
        self.run = run
        self.options = serve_options(run=run, **options)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def __enter__(self):
        self._thread.start()
        try:
            self.front = self.call(Front.open(self.service, self.options))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(RuntimeError):
            self.call(self.front.close())
        self._stop()

    def _stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
