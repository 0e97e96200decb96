"""What all services share: rows, elements of rings, rows of backends; and how large the maps are that hold them."""

import time

from hopline.config import Service
from hopline.daemon.attachments import Attachments
from hopline.daemon.balance.blocks import Blocks
from hopline.daemon.balance.maps import BalanceMaps
from hopline.daemon.balance.served import Served, elements_of, room_for
from hopline.errors import Refused

REST_S = 1.0  # far more than a program runs for
BACKEND_ROWS = 1 << 17
ELEMENTS_LEAST = 256
ELEMENTS_STEP = 1 << 13  # the most that rings are given beyond what they need: 32 MiB
FEW = 16  # services that come together, and after which others are expected


class Pool:
    """Places in the maps; under the lock of the balancer."""

    def __init__(self, maps: BalanceMaps, attachments: Attachments, flow_ways: int) -> None:
        self.maps = maps
        self._attachments = attachments
        self._datapath = maps.datapath
        self.behind = False  # programs run over other maps, or with other steps, than are there now
        self._each = int(maps.limits.RING_ELEMENT_SLOTS)
        self._flow_buckets = flow_ways // int(maps.limits.FLOW_WAYS)
        self.rows = Blocks(1, int(maps.limits.SERVICES))
        self.elements = Blocks(0, self._datapath.maps["rings"].max_entries)
        self.backends = Blocks(0, self._datapath.maps["backends"].max_entries)

    def lacking(self, slots: list[int]) -> int:
        """Return how many elements `rings` must have for more rings of these sizes; 0 where it has them."""
        sizes = [elements_of(size, self._each) for size in slots]
        lacking = self.elements.lacking(sizes)
        if not lacking and self._datapath.maps["backends"].max_entries > 1:
            return 0
        end = self.elements.end if self.elements.end > 1 else 0
        # programs are loaded anew for it, so the next ones find room, in proportion to what there is
        room = min(end, ELEMENTS_STEP) if len(sizes) < FEW else 0
        return max(ELEMENTS_LEAST, -(-(end + lacking + room) // ELEMENTS_LEAST) * ELEMENTS_LEAST)

    def switch(self, *, balancing: bool, decapsulating: bool, elements: int = 0) -> None:
        """Have every pipeline run with these steps, over maps that are large enough; all of them or none."""
        sizes: dict[str, int] = {}
        if balancing:
            sizes = {"backends": BACKEND_ROWS, "backend_count": BACKEND_ROWS, "flows": self._flow_buckets}
            sizes["rings"] = elements
        before = (self._datapath.balancing, self._datapath.decapsulating)
        # views would keep the old maps in memory
        self.maps.release()
        try:
            self.behind |= self._datapath.enlarge(sizes)
        finally:
            self.maps.renew()
        self.elements.grow(self._datapath.maps["rings"].max_entries)
        self.backends.grow(self._datapath.maps["backends"].max_entries)
        self.behind |= self._datapath.switch(balancing=balancing, decapsulating=decapsulating)
        if not self.behind:
            return
        try:
            self._attachments.reload()
        except BaseException:
            self._datapath.switch(balancing=before[0], decapsulating=before[1])
            raise
        self.behind = False

    def begin(self, service: Service) -> Served:
        """Return a service's place, blank, that nothing leads to; Refused where there is no room."""
        room = room_for(len(service.backend), int(self.maps.limits.SERVICE_BACKENDS))
        size = elements_of(service.ring, self._each)
        row, first, base = self.rows.take(1), self.elements.take(size), self.backends.take(room)
        if row is None or first is None or base is None:
            taken = ((self.rows, row, 1), (self.elements, first, size), (self.backends, base, room))
            for blocks, start, length in taken:
                if start is not None:
                    blocks.give_back(start, length, 0)
            raise Refused(f"service {service.name}: the kernel's tables have no room for it: remove others first")
        self.maps.blank_backends(base, room)
        self.maps.zero_rows("backend_count", base, room)
        self.maps.zero_rows("flow_count", row, 1)
        self.maps.set_ring(row, 0, 0)
        self.maps.services["refused"][row] = 0
        self.maps.set_word(row, "backends", base)
        self.maps.set_word(row, "numbers", room)
        self.maps.set_name(row, service.name)
        return Served(self.maps, service, row, base, room, first)

    def end(self, served: Served) -> None:
        """Take a service's place back, which nothing leads to any more, nor any entry of the flow table names."""
        self.maps.set_name(served.row, "")
        self.maps.blank_backends(served.base, served.room)
        self.maps.set_word(served.row, "numbers", 0)
        until = time.monotonic() + REST_S
        self.rows.give_back(served.row, 1, until)
        self.elements.give_back(served.first, served.elements, until)
        self.backends.give_back(served.base, served.room, until)

    def rest_rows(self, start: int, size: int) -> None:
        """Take rows of backends back, which programs may still read for a moment."""
        self.backends.give_back(start, size, time.monotonic() + REST_S)

    def free_rested(self, now: float) -> None:
        """Make free what programs have forgotten."""
        for blocks in (self.rows, self.elements, self.backends):
            blocks.free_rested(now)
