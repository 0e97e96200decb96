"""How a program on a route is told to be ours, and what a listing says of it.

The kernel keeps a program's name and little else, so the name says what we must find again:
`hopline/FUNCTION/PROGRAM-ID[/hHEADROOM][/kept]`; kept: the route was there before, and stays when the program goes.
"""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hopline.host.program.record import clock
from hopline.kernel.netlink.encap import Hook, NewHook, NextHop, Route
from hopline.kernel.netlink.wire import name_of
from hopline.kernel.program import Program

_NAME = re.compile(r"hopline/([^/]+)/(\d+)(?:/h(\d+))?(/kept)?")
_FUNCTION_LIMIT = 200  # of its name in ours; the kernel takes 255 in all
_TABLES = {253: "default", 254: "main", 255: "local"}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the name of a program that we put on a route says."""

    function: str
    id: int
    headroom: int
    kept: bool

    @property
    def name(self) -> str:
        """The name itself."""
        headroom = f"/h{self.headroom}" if self.headroom else ""
        return f"hopline/{self.function[:_FUNCTION_LIMIT]}/{self.id}{headroom}{'/kept' if self.kept else ''}"


def identity_of(hook: Hook) -> Identity | None:
    """What its name says; None for another's program."""
    found = _NAME.fullmatch(hook.name)
    if found is None:
        return None
    return Identity(found[1], int(found[2]), int(found[3] or 0), found[4] is not None)


def known_as(hook: Hook) -> str:
    """How an error calls it."""
    identity = identity_of(hook)
    if identity:
        return f"program {identity.function} (id {identity.id})"
    return f"another's program {hook.name}" + (f" (id {hook.id})" if hook.id else "")


def reopened(stack: ExitStack, hooks: Sequence[Hook], headroom: int, kept: bool) -> list[NewHook]:
    """Programs of ours to be put on their route again, open until the stack ends; a name is all that says which."""
    found = []
    for hook in hooks:
        identity = identity_of(hook)
        if identity is not None:
            program = stack.enter_context(Program.from_id(identity.id))
            name = Identity(identity.function, identity.id, headroom, kept).name
            found.append(NewHook(hook.kind, name, program.fd))
    return found


@dataclass(frozen=True, slots=True)
class Way:
    """A next hop: `via` None where it is on link, `dev` None where it leads nowhere."""

    dev: str | None
    via: str | None

    def __str__(self) -> str:
        return " ".join([*(["via", self.via] if self.via else []), *(["dev", self.dev] if self.dev else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class OnRoute:
    """A program on a route. `dev` and `via` are those of the first of `next_hops`.

    `name` is the kernel's, `program` the function's where we loaded it; `id` and `headroom` are None where only who
    loaded it knows them. `until`, in seconds of the epoch, is when it goes by itself; `late`, why it does not.
    """

    route: str
    table: str
    dev: str | None
    via: str | None
    next_hops: tuple[Way, ...]
    metric: int
    hook: str
    program: str
    id: int | None
    name: str
    headroom: int | None
    ours: bool
    kept: bool
    until: float | None = None
    late: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedOnRoute(OnRoute):
    """What load did: `made` the route, or put the program on one; `replaced` are the names of what sat there.

    `notes` are sentences on what is worth knowing.
    """

    made: bool
    replaced: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOffRoute(OnRoute):
    """What unload did; `stays`: the route is there without it, and without `lost`, next hops whose device is down."""

    stays: bool
    lost: tuple[Way, ...] = ()


def way(hop: NextHop) -> Way:
    """How a next hop is told."""
    return Way(name_of(hop.index) if hop.index else None, hop.via)


def without(lost: Sequence[Way]) -> str:
    """What is to be said of next hops that a route could not keep."""
    if not lost:
        return ""
    return f"without {' and '.join(map(str, lost))}, which is down: add it again when it is up"


def described(route: Route, hook: Hook) -> dict[str, Any]:
    """The fields of OnRoute."""
    identity = identity_of(hook)
    hops = tuple(map(way, route.hops))
    return {
        "route": route.to.removesuffix("/128" if route.family == 6 else "/32"),
        "table": _TABLES.get(route.table, str(route.table)),
        "dev": hops[0].dev,
        "via": hops[0].via,
        "next_hops": hops,
        "metric": route.metric,
        "hook": hook.kind,
        "program": identity.function if identity else hook.name,
        "id": identity.id if identity else hook.id,
        "name": hook.name,
        "headroom": identity.headroom if identity else None,
        "ours": identity is not None,
        "kept": identity is not None and identity.kept,
    }


def sentence(done: LoadedOnRoute | TakenOffRoute) -> str:
    """What was done, in a line."""
    leads = " and".join(f" {hop}" for hop in done.next_hops if str(hop))
    known = f"{done.program} (id {done.id})" if done.id else done.program
    if isinstance(done, TakenOffRoute):
        after = "stays" if done.stays else "went with it"
        after += f" {without(done.lost)}" if done.lost else ""
        return f"route {done.route}{leads}: {known} detached from {done.hook}; the route {after}"
    headroom = f", headroom {done.headroom}" if done.headroom else ""
    instead = f", instead of {' and '.join(done.replaced)}" if done.replaced else ""
    until = "" if done.until is None else f", until {clock(done.until)}"
    before = "is new" if done.made else "was there"
    return f"route {done.route}{leads}: {known} attached at {done.hook}{headroom}{instead}{until}; the route {before}"
