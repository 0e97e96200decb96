"""The service: owner of the intent and of the kernel's state; what the API calls."""

import asyncio
import os
import time

from hopline import __version__
from hopline.daemon.calls.forwards import ForwardCalls
from hopline.daemon.calls.intent import IntentCalls
from hopline.daemon.calls.interfaces import InterfaceCalls
from hopline.daemon.calls.services import BalanceCalls
from hopline.daemon.protocol import (
    CacheState,
    EntryCount,
    PendingState,
    Status,
)
from hopline.kernel import netns
from hopline.kernel.link import remove_pins


class Service(InterfaceCalls, ForwardCalls, BalanceCalls, IntentCalls):
    """One instance, as hopline.daemon.protocol.ServiceProtocol has it."""

    async def status(self) -> Status:
        """Return everything `hopline status` shows."""
        used4, used6 = self.learned.used()
        ways = self.datapath.limits
        return Status(
            instance=self.options.instance,
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self.began, 3),
            netns=netns.inode(),
            generation=self.datapath.generation,
            lease_ms=self.datapath.lease_ms,
            interfaces=await self.interfaces(),
            entries=EntryCount(operator=len(self.tables.entries), learned=self.learned.count()),
            cache=CacheState(
                size_ipv4=self.datapath.cache_buckets * ways.CACHE4_WAYS,
                size_ipv6=self.datapath.cache_buckets * ways.CACHE6_WAYS,
                used_ipv4=used4,
                used_ipv6=used6,
            ),
            notes=self.notes,
            revision=self.store.revision,
            pending=self._pending(),
            repairs=dict(self.meters.repairs),
        )

    def _pending(self) -> PendingState | None:
        pending = self.store.pending
        if pending is None:
            return None
        return PendingState(pending.revision, self.changes.left(pending))

    async def detach(self) -> None:
        """Remove this instance from the kernel and keep its intent; the daemon ends."""
        async with self.changes.lock:
            for index in list(self.attachments.by_index):
                self.attachments.detach(index)
            await asyncio.to_thread(self.balance.disown_all)
            remove_pins(self.datapath.directory)
            self.detached.set()

    def interface_index(self, name: str) -> int | None:
        """Return a device's index here, None if there is none."""
        link = self.surroundings.link_named(name)
        return link.index if link else None

    def interface_name(self, index: int) -> str | None:
        """Return the name of the device with this index, None if there is none."""
        link = self.surroundings.watch.links.get(index)
        return link.name if link else None
