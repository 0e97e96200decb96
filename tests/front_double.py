"""A service in memory behind the daemon's doors, for tests of the doors alone; it proves nothing about packets."""

import asyncio
import contextlib
import threading
from pathlib import Path

from hopline.config import Forward, Interface
from hopline.daemon.front import Front
from hopline.daemon.options import serve_options
from hopline.daemon.protocol import (
    CacheState,
    Count,
    EntryCount,
    ForwardAnswer,
    ForwardRow,
    InterfaceAdded,
    InterfaceState,
    NextHopRow,
    Status,
)
from hopline.errors import KernelError, NotFound, Refused

DEVICES = {"lo": 1, "enp0s3": 2, "enp0s9": 4}
OWN_MAC = "08:00:27:13:df:b6"
NEIGHBOUR_MAC = "08:00:27:f2:cb:f9"
LEARNED = ForwardRow(
    to="10.10.2.7", dev="enp0s3", src_mac=OWN_MAC, dst_mac=NEIGHBOUR_MAC, origin="learned", fresh="yes"
)


class ServiceDouble:
    def __init__(self):
        self.intent = {}
        self.wanted = {}
        self.learned = [LEARNED]
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
            entries=EntryCount(len(self.intent), len(self.learned)),
            cache=CacheState(size_ipv4=131072, size_ipv6=131072),
        )

    async def interface_add(self, interface, replace):
        self._check()
        if interface.name not in DEVICES:
            raise NotFound(f"interface add {interface.name}: no such device: `ip link` shows them")
        if interface.name in self.wanted and not replace:
            raise Refused(f"interface {interface.name} exists: use `hopline interface set`")
        self.wanted[interface.name] = interface
        return InterfaceAdded(interface, self.state(interface), ["peer without GRO: packets may be lost"])

    async def interface_set(self, name, mode, bypass_policy):
        if name not in self.wanted:
            raise NotFound(f"interface {name}: not an interface of hopline's")
        old = self.wanted[name]
        new = Interface(name, mode or old.mode, old.bypass_policy if bypass_policy is None else bypass_policy)
        self.wanted[name] = new
        return InterfaceAdded(new, self.state(new))

    async def interface_del(self, name):
        if self.wanted.pop(name, None) is None:
            raise NotFound(f"interface {name}: not an interface of hopline's")

    async def interfaces(self):
        return [self.state(interface) for interface in self.wanted.values()]

    async def forward_put(self, forwards, replace):
        self._check()
        for forward in forwards:
            if forward.to in self.intent and not replace:
                raise Refused(f"forward {forward.to} exists: use replace")
        self.intent.update({forward.to: forward for forward in forwards})

    async def forward_del(self, destinations):
        for to in destinations:
            if to not in self.intent:
                raise NotFound(f"forward {to}: no such entry")
        for to in destinations:
            del self.intent[to]

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
        rows = [self._row(forward) for forward in self.intent.values()] + self.learned
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

    async def forward_flush(self):
        count, self.learned = len(self.learned), []
        return count

    async def detach(self):
        self.detached = True

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
