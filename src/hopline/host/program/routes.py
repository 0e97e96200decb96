"""Programs on routes: lwt in, out and xmit, and seg6local End.BPF. All of the calling thread's network namespace.

request   what was asked, checked
load      object → program → route; attach: a program that is loaded already
unload    off again; the route stays, unless load made it
attached  every program on a route, ours or not
"""

import contextlib
import dataclasses
import errno
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from hopline.errors import HoplineError, InvalidInput, KernelError, NotFound, Refused
from hopline.host.program import keep, record, timed
from hopline.host.program.identity import (
    Identity,
    LoadedOnRoute,
    OnRoute,
    TakenOffRoute,
    Way,
    described,
    identity_of,
    known_as,
    reopened,
    way,
    without,
)
from hopline.host.program.objects import opened
from hopline.host.program.signals import ENDS, uninterrupted
from hopline.kernel.netlink import encap, query
from hopline.kernel.netlink.encap import Hook, NewHook, Route
from hopline.kernel.netlink.lookup import matched_route
from hopline.kernel.program import LWT_IN, LWT_OUT, LWT_SEG6LOCAL, LWT_XMIT, Program
from hopline.spelling import canonical_address, canonical_destination, device_name

# hook → the type of its programs
HOOKS = {"in": LWT_IN, "out": LWT_OUT, "xmit": LWT_XMIT, "seg6local": LWT_SEG6LOCAL}

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between a keeper's attempts

_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What `load --route` asks for; `to` has its length, `route` is as a person writes it."""

    route: str
    to: str
    hook: str
    via: str | None
    dev: str | None
    headroom: int | None


def request(
    route: str, hook: str, *, via: str | None = None, dev: str | None = None, headroom: int | None = None
) -> RouteRequest:
    """Check what was asked; InvalidInput names the option."""
    if hook not in HOOKS:
        raise InvalidInput("hook", f"{hook} is no hook of a route", f"give one of {', '.join(HOOKS)}")
    via = canonical_address(via, "via") if via else None
    shown, to = _destination(route, via)
    if hook == "seg6local" and ":" not in to:
        raise InvalidInput("route", f"{shown} is IPv4, and seg6local is of IPv6", "give the IPv6 prefix of a segment")
    if via and ":" in to and ":" not in via:
        raise InvalidInput("via", f"{via} is IPv4 and {shown} is IPv6", "give an IPv6 next hop")
    if headroom is not None and not 1 <= headroom <= encap.HEADROOM_LIMIT:
        raise InvalidInput("headroom", f"{headroom} is not of 1 to {encap.HEADROOM_LIMIT} octets", "give fewer or none")
    if headroom is not None and hook == "seg6local":
        raise InvalidInput("headroom", "seg6local routes have none", "leave it out")
    return RouteRequest(shown, to, hook, via, device_name(dev) if dev else None, headroom)


def _destination(text: str, via: str | None = None) -> tuple[str, str]:
    """(the prefix in its one spelling, the same with its length always)."""
    if text == "default":
        text = "::/0" if via and ":" in via else "0.0.0.0/0"
    shown = canonical_destination(text, "route")
    return shown, shown if "/" in shown else f"{shown}/{128 if ':' in shown else 32}"


def load(
    file: str | Path,
    asked: RouteRequest,
    *,
    program: str | None = None,
    section: str | None = None,
    variables: Sequence[str] = (),
    replace: bool = False,
    seconds: float | None = None,
) -> LoadedOnRoute:
    """Load a program of an object file and put it on a route, for some seconds or until unload.

    Raises what attach() does and what opening and loading an object does; then nothing is there that was not before.
    """
    ending: list[record.Keeper] = []  # ended without the lock, which they take to clean up
    until = None
    try:
        with record.locked(), ExitStack() as undo:
            finish()
            _, go = _divided(asked, _chosen(asked), replace)  # what is refused anyway need not be loaded first
            replaced = timed.keepers(asked.to, go)
            if seconds is not None and len(replaced) < len(go):
                stays = next(hook for hook in go if timed.on_record(asked.to, hook) is None)
                why = "what replaces it for a time could not give it back"
                raise Refused(f"load on route {asked.route}: {known_as(stays)} is there, and {why}: unload it first")
            chosen = opened(Path(file), HOOKS[asked.hook], program=program, section=section, variables=variables)
            with chosen as (_, loaded), uninterrupted():
                if seconds is not None:
                    # before the program is there, so that a crash leaves none
                    until = time.time() + seconds
                    place = timed.place_of(asked.to, asked.hook, loaded.id)
                    ending.append(keep.start_route(place, asked.to, asked.hook, loaded.id, seconds))
                    undo.callback(record.forget, place)
                    timed.write(asked.to, asked.hook, loaded, ending[0], until)
                done = attach(loaded, asked, replace=replace)
                undo.pop_all()
                ending[:] = replaced
                for hook in go:
                    timed.forget(asked.to, hook)
    finally:
        for keeper in ending:
            keep.end(keeper)
    return dataclasses.replace(done, until=until)


def attach(program: Program, asked: RouteRequest, *, replace: bool = False) -> LoadedOnRoute:
    """Put a loaded program of the hook's type on a route, or make the route with it.

    A route that is there keeps its next hop, metric and all else, and other hooks of ours stay on it. Refused where
    something sits that cannot stay, unless `replace`; no packet in between finds no route.
    """
    route = _chosen(asked)
    stay, go = _divided(asked, route, replace)
    before = [identity for hook in (*stay, *go) if (identity := identity_of(hook))]
    kept = route is not None and (not before or before[0].kept)
    headroom = asked.headroom or max((i.headroom for hook in stay if (i := identity_of(hook))), default=0)
    identity = Identity(program.name, program.id, headroom, kept)
    with ExitStack() as stack:
        hooks = [NewHook(asked.hook, identity.name, program.fd), *reopened(stack, stay, headroom, kept)]
        lost: tuple[Way, ...] = ()
        if route is None:
            index = query.link(asked.dev).index if asked.dev else 0
            encap.create(asked.to, asked.via, index, hooks, headroom)
        else:
            lost = _put(f"load on route {asked.route}", route, hooks, headroom, lossy=bool(go))
    hook = Hook(asked.hook, identity.name, program.id)
    now = next((one for one in encap.routes_to(asked.to) if any(h.name == hook.name for h in one.hooks)), None)
    if now is None:
        raise NotFound(f"load on route {asked.route}: something took it away at once: see `ip monitor route`")
    replaced = tuple(one.name for one in go)
    notes = (f"route {asked.route} is now {without(lost)}",) if lost else ()
    return LoadedOnRoute(**described(now, hook), made=route is None, replaced=replaced, notes=notes + _notes(asked))


def _put(doing: str, route: Route, hooks: Sequence[NewHook], headroom: int, *, lossy: bool = False) -> tuple[Way, ...]:
    """encap.put; next hops that are dead are left out, where that is allowed, and returned."""
    dead = tuple(way(hop) for hop in route.hops if hop.dead)
    try:
        encap.put(route, hooks, headroom)
    except KernelError as error:
        if not dead or error.errno in _GONE:
            raise
        if not lossy:
            down = " and ".join(map(str, dead))
            raise Refused(f"{doing}: Linux puts no route again of which {down} is down: bring it up first") from error
        encap.put(route.alive, hooks, headroom)
        return dead
    return ()


def _notes(asked: RouteRequest) -> tuple[str, ...]:
    """What of a hook is a trap.

    An IPv4 route with an in hook has one input function, which is that of forwarding until the host itself sends by the
    route; from then on it is dst_discard (include/net/lwtunnel.h, lwtunnel_set_redirect; measured on 6.18).
    """
    if asked.hook != "in" or ":" in asked.to:
        return ()
    network = IPv4Network(asked.to)
    if not any(_host_sends_by_program(str(network[at * (network.num_addresses - 1) // 4])) for at in range(1, 4)):
        return ()
    apart = f"`ip rule add iif lo to {asked.to} lookup TABLE`, with the same route in that table"
    lost = "Linux loses forwarded packets that the program lets pass"
    return (f"once this host itself sends to {asked.route}, {lost}: part them: {apart}",)


def _host_sends_by_program(address: str) -> bool:
    try:
        return matched_route(address).tunnel
    except KernelError:
        return False


def _chosen(asked: RouteRequest) -> Route | None:
    """The route that the hook goes on; None where one is to be made."""
    doing = f"load on route {asked.route}"
    index = query.link(asked.dev).index if asked.dev else 0
    there = encap.routes_to(asked.to)
    if not there and not index and not asked.via:
        raise NotFound(f"{doing}: there is no such route: give --dev, and --via where there is a next hop, to make it")
    if not there:
        return None
    fits = [route for route in there if _leads(route, asked.via, index)]
    if not fits:
        raise Refused(
            f"{doing}: it is there and leads {_ways(there[0])}: leave --via and --dev out, or change it first"
        )
    route = min(fits, key=lambda one: (one.tos, one.metric))
    if why := _unsuitable(route):
        raise Refused(f"{doing}: {why}")
    same = [one for one in there if (one.tos, one.metric) == (route.tos, route.metric)]
    if same[0] != route:
        # the kernel would replace the first of them
        raise Refused(f"{doing}: {len(same)} routes to it have metric {route.metric}: give each its own metric first")
    return route


def _leads(route: Route, via: str | None, index: int) -> bool:
    return any((not via or hop.via == via) and (not index or hop.index == index) for hop in route.hops)


def _ways(route: Route) -> str:
    return " and ".join(str(way(hop)) if hop.via else f"to {way(hop)}" for hop in route.hops)


def _unsuitable(route: Route) -> str | None:
    """Why a route can have no program, and what to do."""
    if route.nexthop_id:
        return f"it uses next-hop object {route.nexthop_id}, which has no place for one: give the route its own hop"
    if route.type != encap.UNICAST:
        return f"packets to it are not forwarded (see `ip route show {route.to}`): take another prefix"
    if route.protocol == encap.ROUTER_ADVERTISEMENT:
        return "routers advertise it, and would put it back without the program: make a static one"
    if route.encapsulation:
        return f"it encapsulates already, by {route.encapsulation}: take another prefix, or remove that first"
    return None


def _divided(asked: RouteRequest, route: Route | None, replace: bool) -> tuple[list[Hook], list[Hook]]:
    """(the hooks that stay beside the new one, those that go); Refused where one goes and `replace` is not asked."""
    stay: list[Hook] = []
    go: list[Hook] = []
    for hook in route.hooks if route else ():
        beside = hook.kind != asked.hook and "seg6local" not in (hook.kind, asked.hook)
        (stay if beside and identity_of(hook) else go).append(hook)
    if not go or replace:
        return stay, go
    hook = go[0]
    doing = f"load on route {asked.route}: {known_as(hook)} is at its {hook.kind} hook"
    if hook.kind == asked.hook:
        raise Refused(f"{doing}: unload it or use --replace")
    if identity_of(hook) or hook.id:
        raise Refused(f"{doing}, and seg6local needs a route of its own: unload it or use --replace")
    raise Refused(f"{doing}, and would be lost, for the kernel does not tell which program that is: use --replace")


def attached() -> list[OnRoute]:
    """Every program on a route, ours or not, of all tables."""
    found = []
    for route in encap.hooked_routes():
        for hook in route.hooks:
            kept = timed.on_record(route.to, hook)
            until, late = (kept.until, timed.late(kept)) if kept else (None, None)
            found.append(OnRoute(**described(route, hook), until=until, late=late))
    return found


def unload(
    route: str, *, program: str | None = None, id: int | None = None, everything: bool = False
) -> list[TakenOffRoute]:
    """Take programs off a route of the main table: ours, or those of a name, an id, or all.

    "default" is that of IPv6 where only that has programs. The route stays as it was, unless load made it and no
    program is left on it, but for next hops that are down. Refused where only others' programs are there and none was
    named, or where one that is to stay could not; NotFound where there is none.
    """
    shown, to = _destination(_default() if route == "default" else route)
    doing = f"unload from route {shown}"

    def meant(hook: Hook) -> bool:
        identity = identity_of(hook)
        if program is None and id is None:
            return everything or identity is not None
        names = (hook.name, identity.function if identity else hook.name)
        return (program is None or program in names) and (id is None or id == (identity.id if identity else hook.id))

    with record.locked():
        there = [hook for one in encap.routes_to(to) for hook in one.hooks]
        if not there:
            raise NotFound(f"{doing}: no program is on it: see `hopline program show`")
        going = [hook for hook in there if meant(hook)]
        if not going:
            known = ", ".join(map(known_as, there))
            if program is None and id is None:
                raise Refused(f"{doing}: {known} was not loaded by hopline: name it by --program or use --all")
            raise NotFound(f"{doing}: {program or f'program id {id}'} is not on it, but {known}: name one of these")
        ending = timed.keepers(to, going)
        with uninterrupted():
            taken = _take_off(doing, to, going)
        finish()
    for keeper in ending:
        keep.end(keeper)
    return taken


def _default() -> str:
    """Which of the default routes is meant: the one with a program of ours, or with any."""
    hooks = {to: [hook for one in encap.routes_to(to) for hook in one.hooks] for to in ("0.0.0.0/0", "::/0")}
    ours = [to for to, there in hooks.items() if any(map(identity_of, there))]
    if len(ours) > 1:
        raise Refused(f"unload from route default: programs are on both: say {' or '.join(ours)}")
    return next(iter([*ours, *(to for to, there in hooks.items() if there), "0.0.0.0/0"]))


def _take_off(doing: str, to: str, going: Sequence[Hook], *, lossy: bool = True) -> list[TakenOffRoute]:
    routes = [one for one in encap.routes_to(to) if set(one.hooks) & set(going)]
    for one in routes:
        for hook in one.hooks:
            if hook not in going and identity_of(hook) is None:
                raise Refused(f"{doing}: {known_as(hook)} is there too and would be lost: use --all")
    taken = []
    for one in routes:
        off = [hook for hook in one.hooks if hook in going]
        stays, lost = _without(doing, one, off, lossy)
        for hook in off:
            timed.forget(to, hook)
            taken.append(TakenOffRoute(**described(one, hook), stays=stays, lost=lost))
    return taken


def _without(doing: str, route: Route, going: Sequence[Hook], lossy: bool) -> tuple[bool, tuple[Way, ...]]:
    """Take hooks off one route: whether it is still there, and next hops that it could not keep."""
    rest = [hook for hook in route.hooks if hook not in going]
    if not rest and any(identity and not identity.kept for identity in map(identity_of, going)):
        encap.delete(route)
        return False, ()
    left = next(filter(None, map(identity_of, rest)), None)
    headroom, kept = (left.headroom, left.kept) if left else (0, False)
    with ExitStack() as stack:
        return True, _put(doing, route, reopened(stack, rest, headroom, kept), headroom, lossy=lossy)


def release(route: str, hook: str, program_id: int) -> None:
    """Take one program off a route, as unload does; nothing where it has gone."""
    _, to = _destination(route)
    with record.locked():
        _release(to, hook, program_id, lossy=True)


def leave(route: str, hook: str, program_id: int) -> None:
    """As release(), for a keeper: nobody would be told of a lost next hop, so it waits until none is down."""
    _, to = _destination(route)
    pause = FIRST_PAUSE_S
    while True:
        try:
            with record.locked():
                return _release(to, hook, program_id, lossy=False)
        except HoplineError:
            signal.sigtimedwait(ENDS, pause)  # unload may have done it meanwhile, and ends the keeper
            pause = min(2 * pause, LONGEST_PAUSE_S)


def finish() -> None:
    """Do what keepers that were killed left undone, so far as no next hop is lost by it. Under record.locked()."""
    for kept in record.records():
        if kept.hook not in HOOKS or kept.keeper is None or keep.runs(kept.keeper):
            continue
        to = kept.place.split()[1]
        with contextlib.suppress(HoplineError), uninterrupted():
            if record.is_loaded(kept):
                _release(to, kept.hook, kept.program_id, lossy=False)
            record.forget(kept.place)


def _release(to: str, hook: str, program_id: int, *, lossy: bool) -> None:
    going = [
        one
        for there in encap.routes_to(to)
        for one in there.hooks
        if one.kind == hook and (identity := identity_of(one)) and identity.id == program_id
    ]
    try:
        _take_off(f"release route {to}", to, going, lossy=lossy)
    except KernelError as error:
        if error.errno not in _GONE:
            raise
