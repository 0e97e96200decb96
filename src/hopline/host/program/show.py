"""Every XDP and LWT program of this host: on devices and routes of the calling thread's namespace, or only loaded.

What is attached in other namespaces is only loaded, seen from here. The kernel tells no id of a program on a route that
another put there, so such a one has a row by its name on the route and another as loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hopline.errors import KernelError
from hopline.host.program import record, routes
from hopline.host.program.record import Record
from hopline.host.program.seat import on_record
from hopline.kernel import bpffs, loaded
from hopline.kernel.attach import mode_of
from hopline.kernel.link import pinned_by, query
from hopline.kernel.netlink import query as links
from hopline.kernel.program import LWT_IN, LWT_OUT, LWT_SEG6LOCAL, LWT_XMIT, XDP, Program

TYPES = (XDP, LWT_IN, LWT_OUT, LWT_XMIT, LWT_SEG6LOCAL)
HOOK_OF = {XDP: record.XDP_HOOK, **{number: hook for hook, number in routes.HOOKS.items()}}
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A program and where it is: on `device`, on `route`, or on none of this namespace.

    `link_id`: held by that link. `instance`: the Hopline instance that serves the device. `until`: when it goes by
    itself; `late`: why it does not. Times are in seconds of the epoch, sizes in bytes; `locked_bytes` is the program's
    own, without its maps.
    `id`, and what follows `tag`, is None where the kernel does not tell which program it is; `runs` and what follows
    where nobody counts.
    """

    hook: str
    name: str
    id: int | None
    device: str | None = None
    mode: str | None = None
    link_id: int | None = None
    instance: str | None = None
    route: str | None = None
    table: str | None = None
    ours: bool = False
    until: float | None = None
    late: str | None = None
    pins: tuple[str, ...] = ()
    tag: str | None = None
    loaded_at: float | None = None
    uid: int | None = None
    gpl: bool | None = None
    xlated_bytes: int | None = None
    jited_bytes: int | None = None
    locked_bytes: int | None = None
    map_ids: tuple[int, ...] | None = None
    runs: int | None = None
    run_ns: int | None = None
    ns_a_run: float | None = None


def show(device: str | None = None) -> list[Shown]:
    """All, or those on one device and on routes that leave by it; NotFound if it is not there."""
    devices = [links.link(device)] if device is not None else links.links()
    rows = [row for link in devices if (row := _on_device(link.name, link.index))]
    rows += [_on_route(one) for one in routes.attached() if device is None or _leads(one, device)]
    if device is None:
        placed = {row.id for row in rows}
        rows += [_loaded(info.id, info.name, info.type) for info in loaded.programs(*TYPES) if info.id not in placed]
    return rows


def _on_device(device: str, ifindex: int) -> Shown | None:
    there = query(ifindex)
    if there is None:
        return None
    kept: Record | None = on_record(there, ifindex)
    return Shown(
        hook=record.XDP_HOOK,
        id=there.program_id,
        device=device,
        mode=mode_of(there),
        link_id=there.link_id,
        instance=pinned_by(bpffs.root() / "hopline", there.program_id),
        ours=kept is not None,
        until=kept.until if kept else None,
        pins=tuple(kept.pins) if kept else (),
        **{"name": there.name} | _known(there.program_id),
    )


def _leads(one: routes.OnRoute, device: str) -> bool:
    return any(hop.dev == device for hop in one.next_hops)


def _on_route(one: routes.OnRoute) -> Shown:
    return Shown(
        hook=one.hook,
        id=one.id,
        device=one.dev,
        route=one.route,
        table=one.table,
        ours=one.ours,
        until=one.until,
        late=one.late,
        **_known(one.id) | {"name": one.program},
    )


def _loaded(program_id: int, name: str, type: int) -> Shown:
    return Shown(hook=HOOK_OF[type], id=program_id, **{"name": name} | _known(program_id))


def _known(program_id: int | None) -> dict[str, Any]:
    """What the kernel says of a loaded program: `name` and the fields of Shown from `tag` on; nothing if it is gone."""
    if program_id is None:
        return {}
    try:
        with Program.from_id(program_id) as program:
            info, locked = program.info(), loaded.locked_bytes(program.fd)
            name = loaded.whole_name(program)
    except KernelError:
        return {}  # gone since
    counted = info.run_count or _are_counted()
    return {
        "name": name,
        "tag": info.tag,
        "loaded_at": loaded.loaded_at(info.loaded_ns),
        "uid": info.uid,
        "gpl": info.gpl,
        "xlated_bytes": info.xlated_bytes,
        "jited_bytes": info.jited_bytes,
        "locked_bytes": locked,
        "map_ids": info.map_ids,
        "runs": info.run_count if counted else None,
        "run_ns": info.run_time_ns if counted else None,
        "ns_a_run": info.run_time_ns / info.run_count if info.run_count else None,
    }


def _are_counted() -> bool:
    try:
        return STATISTICS.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False  # a kernel before 5.1
