"""The handlers: each asks the service once. What they are given has been checked by the operation's own row."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from starlette.responses import Response

from hopline.config import shown
from hopline.daemon.api.answers import Changed, answer, parts_answer, rows_answer
from hopline.daemon.api.body import Upload
from hopline.daemon.api.room import Room
from hopline.daemon.encode import ROWS_AT_ONCE, SERVICES_AT_ONCE, encoded_parts
from hopline.daemon.protocol import (
    Applied,
    Confirmed,
    ForwardAnswer,
    HistoryRow,
    InterfaceAdded,
    InterfaceState,
    ServiceProtocol,
    Status,
)
from hopline.errors import InvalidInput, NotFound
from hopline.explain import Explanation, Tallied
from hopline.intent import NOUNS, Wanted, document_of


@dataclass(frozen=True)
class Asked:
    """One request: the service it is for, the room for its answer, the values of its parameters, what it carries."""

    service: ServiceProtocol
    room: Room
    values: dict[str, Any]
    body: Any

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


async def status(asked: Asked) -> Status:
    """Show the daemon and all it looks after."""
    return await asked.service.status()


async def interfaces(asked: Asked) -> list[InterfaceState]:
    """Show all interfaces."""
    return await asked.service.interfaces()


async def interface(asked: Asked) -> InterfaceState:
    """Show one interface."""
    name = asked["name"]
    for state in await asked.service.interfaces():
        if state.name == name:
            return state
    raise NotFound(f"interface {shown(name)}: not one of Hopline's: `hopline interface add {shown(name)}` first")


async def interface_add(asked: Asked) -> InterfaceAdded:
    """Handle what a device receives."""
    return await asked.service.interface_add(asked.body, asked["replace"])


async def interface_set(asked: Asked) -> InterfaceAdded:
    """Change what is given of an interface."""
    return await asked.service.interface_set(asked["name"], asked.body.mode, asked.body.bypass_policy)


async def interface_del(asked: Asked) -> Changed:
    """Stop handling what a device receives."""
    await asked.service.interface_del(asked["name"])
    return Changed(1)


async def forwards(asked: Asked) -> Response:
    """Show entries, of both origins unless told."""
    return await rows_answer(asked.service.forwards(asked["to"], asked["origin"], asked["limit"]), asked.room)


async def forward_add(asked: Asked) -> Changed:
    """Enter one forward or a list, all or nothing; a destination that exists is refused."""
    await asked.service.forward_put(asked.body, False)
    return Changed(len(asked.body))


async def forward_replace(asked: Asked) -> Changed:
    """Enter one forward or a list, all or nothing; a destination that exists is changed."""
    await asked.service.forward_put(asked.body, True)
    return Changed(len(asked.body))


async def forward_del(asked: Asked) -> Changed:
    """Remove operator entries, all or nothing."""
    await asked.service.forward_del(asked["to"])
    return Changed(len(asked["to"]))


async def forward_load(asked: Asked) -> Applied:
    """Enter an upload of any size, all or nothing; a destination that exists is changed."""
    upload: Upload = asked.body
    try:
        return await asked.service.apply(upload.wanted, what="forward load", merge=True, limit=asked["limit"])
    except InvalidInput as error:
        raise upload.located(error) from None


async def forward_get(asked: Asked) -> ForwardAnswer:
    """Say what a packet to an address would get, from where, and why."""
    return await asked.service.forward_get(asked["address"], asked["in"])


async def explain(asked: Asked) -> Explanation:
    """Say what would be done with a packet, and why."""
    return await asked.service.explain(asked.body)


async def explain_batch(asked: Asked) -> Tallied:
    """Say how many of these packets would get which verdict."""
    return await asked.service.explain_batch(asked.body)


async def forward_flush(asked: Asked) -> Changed:
    """Forget the learned entries."""
    return Changed(await asked.service.forward_flush())


async def next_hops(asked: Asked) -> Response:
    """Show the adjacencies in use, and what left through each."""
    return await rows_answer(asked.service.next_hops(), asked.room)


async def intent(asked: Asked) -> Response:
    """Show all that was asked for, as one document."""
    async with asked.room.making:
        wanted = await asked.service.intent()
    entries = sum(len(wanted.of(noun.name)) for noun in NOUNS)
    if entries <= ROWS_AT_ONCE and len(wanted.of("service")) <= SERVICES_AT_ONCE:
        return answer(document_of(wanted))
    return parts_answer(_document(wanted), asked.room)


async def _document(wanted: Wanted) -> AsyncIterator[bytes]:
    for place, noun in enumerate(NOUNS):
        yield b'%s"%s":[' % (b"," if place else b"{", noun.name.encode())
        at_once = SERVICES_AT_ONCE if noun.name == "service" else ROWS_AT_ONCE
        async for part in encoded_parts(starmap(noun.entry, wanted.of(noun.name).items()), at_once):
            yield part
        yield b"]"
    yield b"}"


async def intent_put(asked: Asked) -> Applied:
    """Make the intent equal to a document, or only add and change what it names, in one change."""
    return await asked.service.apply(
        asked.body,
        merge=asked["merge"],
        dry_run=asked["dry_run"],
        confirm_within=asked["confirm_within"],
        revision=asked["revision"],
        limit=asked["limit"],
    )


async def intent_diff(asked: Asked) -> Applied:
    """Say what applying a document would change, and change nothing."""
    return await asked.service.apply(asked.body, merge=asked["merge"], dry_run=True, limit=asked["limit"])


async def intent_confirm(asked: Asked) -> Confirmed:
    """Keep the change that is rolled back otherwise."""
    return await asked.service.confirm()


async def history(asked: Asked) -> list[HistoryRow]:
    """Show the last changes, the newest first."""
    return await asked.service.history()


async def rollback(asked: Asked) -> Applied:
    """Make the intent what it was after a change of the history."""
    return await asked.service.rollback(asked["number"], dry_run=asked["dry_run"], limit=asked["limit"])


async def detach(asked: Asked) -> Changed:
    """Remove this instance from the kernel and keep its intent; the daemon ends."""
    await asked.service.detach()
    return Changed(1)
