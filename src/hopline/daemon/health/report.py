"""States that changed, gathered for a moment and told in one call: a rack that goes is one change of the rings."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from hopline.errors import HoplineError

log = logging.getLogger("hopline")

GATHER_S = 0.04
AGAIN_S = 1.0

Pair = tuple[str, str]  # (service, backend)
OnChange = Callable[[Mapping[Pair, bool | None]], Awaitable[None]]


class Report:
    """Calls `on_change`, one call at a time; what changes meanwhile is in the next."""

    def __init__(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._changed: dict[Pair, bool | None] = {}
        self._some = asyncio.Event()

    def tell(self, pair: Pair, state: bool | None) -> None:
        """Note a state; of several of one pair the last counts."""
        self._changed[pair] = state
        self._some.set()

    async def run(self) -> None:
        """Tell until cancelled. What `on_change` could not do with is told again, unless it has changed since."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            changed, self._changed = self._changed, {}
            self._some.clear()
            if not changed:
                continue
            try:
                await self._on_change(changed)
            except HoplineError as error:
                log.warning("health of %d backends: %s: it is tried again", len(changed), error)
                await asyncio.sleep(AGAIN_S)
                self._changed = {**changed, **self._changed}
                self._some.set()
