"""The handlers of services, backends and decap: each asks the service of the daemon once."""

from starlette.responses import Response

from hopline.config import Decap, checked_decap
from hopline.daemon.api.answers import Changed, rows_answer
from hopline.daemon.api.resources import Asked
from hopline.daemon.encode import SERVICES_AT_ONCE
from hopline.daemon.protocol import BackendChanged, DecapRow, DrainState, ServiceChanged, ServiceRow


async def services(asked: Asked) -> Response:
    """Show all services and their backends."""
    rows = asked.service.services(None, stats=asked["stats"], flows=asked["flows"], ring=asked["ring"])
    return await rows_answer(rows, asked.room, SERVICES_AT_ONCE)


async def service(asked: Asked) -> ServiceRow:
    """Show one service and its backends."""
    rows = asked.service.services(asked["name"], stats=asked["stats"], flows=asked["flows"], ring=asked["ring"])
    return (await rows)[0]


async def service_add(asked: Asked) -> ServiceChanged:
    """Serve an address: its flows are shared by backends."""
    return await asked.service.service_add(asked.body)


async def service_set(asked: Asked) -> ServiceChanged:
    """Change what is given of a service."""
    return await asked.service.service_set(asked["name"], asked.body)


async def service_del(asked: Asked) -> Changed:
    """Stop serving; the service's flows end."""
    await asked.service.service_del(asked["name"])
    return Changed(1)


async def backend_add(asked: Asked) -> BackendChanged:
    """Add one backend or a list, all or nothing; one that the service has is refused."""
    return await asked.service.backend_add(asked["name"], asked.body)


async def backend_set(asked: Asked) -> BackendChanged:
    """Change what is given of a backend."""
    return await asked.service.backend_set(asked["name"], asked["address"], asked.body)


async def backend_del(asked: Asked) -> BackendChanged:
    """Remove a backend; its flows stay with it for a while."""
    return await asked.service.backend_del(asked["name"], asked["address"], asked["grace"])


async def backend_drain(asked: Asked) -> BackendChanged:
    """Let a backend take no new flow and keep those it has."""
    return await asked.service.backend_drain(asked["name"], asked["address"], True)


async def backend_undrain(asked: Asked) -> BackendChanged:
    """Let a backend take flows again, as its weight says."""
    return await asked.service.backend_drain(asked["name"], asked["address"], False)


async def backend_drained(asked: Asked) -> DrainState:
    """Say how many flows a backend has left, and how many of them were seen lately."""
    return await asked.service.backend_drained(asked["name"], asked["address"], asked["since"])


async def decaps(asked: Asked) -> list[DecapRow]:
    """Show whose outer headers are taken off, and what came so."""
    return await asked.service.decaps()


async def decap_add(asked: Asked) -> DecapRow:
    """Take packets out that come encapsulated to an address of this host."""
    return await asked.service.decap_add(asked.body)


async def decap_del(asked: Asked) -> Changed:
    """Stop taking out what comes so."""
    entry = checked_decap(Decap(asked["local"], asked["from"], asked["encap"]))
    await asked.service.decap_del([entry.key])
    return Changed(1)
