"""Speed and memory of services: `.venv/bin/python bench/balance_control.py [--quick] [--json FILE]`.

A real daemon in a namespace of its own: `hopline apply` of a document of 1,000 services with 100 backends each, from
nothing; a backend's weight changed over a kept connection; memory by ring size. And in this process, by the daemon's
own code over maps of its own: a backend that all services share fails. What a figure claims is looked up in the
kernel's maps: every service must have its ring, every change must have changed slots.

What it does not show: health checks (bench/health.py), backends whose next hops are asked of a neighbour, traffic.
"""

import argparse
import contextlib
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from control_daemon import Connection, Served, in_namespace, served
from record import save
from world import forget

from hopline.config import Backend, Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance.balancer import Balancer
from hopline.daemon.datapath import Datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT
from hopline.features.forward import Device, Facts
from hopline.kernel import Map
from hopline.kernel.loaded import locked_bytes
from hopline.kernel.netlink import query
from hopline.kernel.netlink.features import device_features

SERVICES, QUICK_SERVICES, BACKENDS = 1000, 100, 100
RINGS = (251, 4093, 65_537)
RING = RINGS[-1]
FLOW_WAYS = 1 << 20
SLOTS_OF_ELEMENT = 1024
GOALS = {"apply_s": 10.0, "weight_ms": 30.0, "failing_s": 3.0, "memory_mb": 300.0}

Figures = dict[str, Any]


def backend(number: int) -> Backend:
    return Backend(f"10.99.1.{number + 1}", dst_mac=f"02:00:00:00:0e:{number:02x}", dev="out0")


def service(number: int, ring: int) -> Service:
    """One of many on addresses of their own, all with the same backends."""
    vip = f"198.18.{number // 250}.{number % 250 + 1}"
    fields = {"port": "80", "protocol": "tcp", "ring": ring, "local": "10.99.0.1"}
    return Service(f"s{number}", vip, **fields, backend=tuple(backend(each) for each in range(BACKENDS)))


def document(services: int, ring: int) -> str:
    """The same as a person would write it."""
    lines = []
    for each in (service(number, ring) for number in range(services)):
        lines += ["[[service]]", *(f'{name} = "{getattr(each, name)}"' for name in ("name", "vip", "port", "protocol"))]
        lines += [f"ring = {ring}", f'local = "{each.local}"']
        for one in each.backend:
            lines += ["[[service.backend]]", *(f'{n} = "{getattr(one, n)}"' for n in ("address", "dst_mac", "dev"))]
    return "\n".join(lines) + "\n"


def rings_of(daemon: Served) -> int:
    """How many services have a ring in the kernel's maps."""
    with Map.from_pin(daemon.pins / "services") as table:
        return int(np.count_nonzero(table.mmap()["ring"] >> np.uint64(32)))


def kernel_mb(daemon: Served) -> dict[str, float]:
    """Memory of the instance's maps: those of services, and all of them."""
    found = {}
    for pin in daemon.pins.iterdir():
        with contextlib.suppress(Exception), Map.from_pin(pin) as table:
            found[pin.name] = locked_bytes(table.fd) / 1e6
    ours = ("rings", "backends", "backend_count", "services", "flow_count", "vips", "vip_buckets", "port_pages")
    memory = sum(found[name] for name in ours)
    return {"rings": found["rings"], "memory": memory, "flows": found["flows"], "maps": sum(found.values())}


def own_mb(daemon: Served) -> float:
    """Memory of the daemon alone, without the maps that it has mapped."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return round(int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e6, 1)


def applied(services: int, ring: int, weights: int) -> Figures:
    """From nothing, then some weights changed."""
    with served() as daemon:
        daemon.start()
        daemon.run("interface", "add", "in0")
        daemon.run("interface", "add", "out0")
        file = daemon.directory / "services.toml"
        file.write_text(document(services, ring))
        spent = daemon.cpu_seconds()
        took, _ = daemon.run("apply", str(file), "--merge", "--yes")
        there = rings_of(daemon)
        assert there == services, f"{there} of {services} services have a ring"
        found: Figures = {"ring": ring, "services": services, "apply_s": round(took, 2)}
        found |= {"daemon_cpu_s": round(daemon.cpu_seconds() - spent, 2), "daemon_mb": own_mb(daemon)}
        found |= {f"{name}_mb": round(size, 1) for name, size in kernel_mb(daemon).items()}
        if weights:
            found |= weighed(daemon, weights, ring)
        return found


def weighed(daemon: Served, times: int, ring: int) -> Figures:
    """One weight is another, over a kept connection: when it is answered, slots have changed."""
    took, spent = [], daemon.cpu_seconds()
    with contextlib.closing(Connection(daemon.socket)) as kept, Map.from_pin(daemon.pins / "rings") as rings:
        words = rings.mmap()["slots"].reshape(-1)
        for turn in range(times):
            name, before = f"s{turn}", words.copy()
            body = b'{"weight": %d}' % (2 + turn % 3)
            began = time.perf_counter()
            kept.ask("PATCH", f"/services/{name}/backends/{backend(0).address}", body)
            took.append((time.perf_counter() - began) * 1e3)
            changed = int(np.count_nonzero(words != before))
            assert changed, f"{name}: no slot has changed"
    in_order = sorted(took)
    return {
        "weight_ms": round(statistics.median(took), 2),
        "weight_most_ms": round(in_order[-1], 2),
        "weight_cpu_ms": round((daemon.cpu_seconds() - spent) / times * 1e3, 1),
        "weight_times": times,
        "slots_changed": changed,
    }


def failing(services: int) -> Figures:
    """A backend of all services is down, and up again: until every ring is another."""
    instance = f"hl-bench-{os.getpid()}-services"
    with contextlib.ExitStack() as held:
        held.callback(forget, instance)
        datapath = Datapath.open(instance, CACHE_SIZE_DEFAULT)
        held.callback(datapath.close)
        attachments = Attachments(datapath)
        link = query.link("out0")
        attachments.know(link, device_features(link))
        device = Device("out0", link.index, attachments.slots[link.index], link.mac, 1500, True)
        balancer = Balancer(attachments, Facts(devices={"out0": device}), FLOW_WAYS)
        many = [checked(service(number, RING)) for number in range(services)]
        balancer.switch(balancing=True, decapsulating=False, elements=balancer.lacking(many))
        began = time.perf_counter()
        for each in many:
            balancer.put(each)
        put = time.perf_counter() - began
        took = {}
        for state in (False, True):
            before = {name: one.words.copy() for name, one in balancer.by_name.items()}
            began = time.perf_counter()
            balancer.set_health({(each.name, backend(7).address): state for each in many})
            took[state] = time.perf_counter() - began
            same = [name for name, one in balancer.by_name.items() if not np.any(one.words != before[name])]
            assert not same, f"{len(same)} of {services} rings have not changed"
        return {
            "failing_s": round(took[False], 2),
            "returning_s": round(took[True], 2),
            "put_s": round(put, 2),
            "services": services,
        }


def checked(one: Service) -> Service:
    """The same with a health check, whose results the bench itself makes up."""
    from msgspec.structs import replace

    return replace(one, check="tcp")


def markdown(found: Figures) -> str:
    """Tables of what was found."""
    sizes, fails = found["sizes"], found["failing"]
    last = sizes[-1]
    count = f"{last['services']:,} services of {BACKENDS} backends"
    lines = [
        f"| {count}, ring of {last['ring']:,} | | bound |",
        "| --- | --: | --: |",
        f"| `hopline apply` from nothing, the command whole | {last['apply_s']} s | {GOALS['apply_s']:g} s |",
        f"| of which the daemon had a CPU | {last['daemon_cpu_s']} s | |",
        f"| one weight, median of {last['weight_times']} | {last['weight_ms']} ms | {GOALS['weight_ms']:g} ms |",
        f"| one weight, the longest | {last['weight_most_ms']} ms | |",
        f"| one weight, of which the daemon had a CPU | {last['weight_cpu_ms']} ms | |",
        f"| a backend that all share fails: all rings switched | {fails['failing_s']} s | {GOALS['failing_s']:g} s |",
        f"| it returns | {fails['returning_s']} s | |",
        f"| memory of the services' maps, the flow table apart | {last['memory_mb']} MB | {GOALS['memory_mb']:g} MB |",
        "",
        "| slots of a ring | apply, s | rings, MB | services' maps, MB | flow table, MB | all, MB | daemon, MB |",
        "| --: | --: | --: | --: | --: | --: | --: |",
    ]
    for one in sizes:
        cells = (one["apply_s"], one["rings_mb"], one["memory_mb"], one["flows_mb"], one["maps_mb"], one["daemon_mb"])
        lines.append(f"| {one['ring']:,} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def goals(found: Figures) -> str:
    """What was asked for and what it is, a line each."""
    at = {**found["sizes"][-1], **{"failing_s": found["failing"]["failing_s"]}}
    lines = [f"{'met' if at[n] <= most else 'NOT MET':8} {n}: {at[n]:g}, wanted {most:g}" for n, most in GOALS.items()]
    return "\n".join(lines)


def measure(quick: bool, target: Path | None) -> None:
    services = QUICK_SERVICES if quick else SERVICES
    found: Figures = {"sizes": [], "failing": failing(services)}
    print(found["failing"], flush=True)
    for ring in RINGS:
        found["sizes"].append(applied(services, ring, (5 if quick else 50) if ring == RING else 0))
        print(found["sizes"][-1], flush=True)
    print(markdown(found))
    print(goals(found))
    if target is not None:
        save(target, quick=quick, markdown=markdown(found), **found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the services")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    asked = parser.parse_args()
    in_namespace(lambda: measure(asked.quick, asked.json))
