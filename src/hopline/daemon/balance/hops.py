"""Next hops towards backends: which adjacency each has, kept as the host's routes, devices and neighbours have them.

Backends behind one gateway share one next hop. How an address is reached is asked of the kernel once, and again when a
route, a rule, a link or an address of the host has changed.
"""

import logging
from collections.abc import Collection, Iterable, Mapping

from hopline.config import Backend, NextHop
from hopline.daemon.balance.maps import BalanceMaps
from hopline.daemon.hops import Hops
from hopline.errors import HoplineError
from hopline.features.balance import Reached, asked_for, next_hop
from hopline.features.forward import Adjacency, Facts, resolve
from hopline.kernel.netlink import neighbour, query
from hopline.kernel.netlink.types import Link

log = logging.getLogger("hopline")

REST_S = 1.0  # far more than a program runs for


class BackendHops:
    """Ids from BACKEND_HOP_FIRST on. One thread at a time, under the lock of the balancer."""

    def __init__(self, maps: BalanceMaps, facts: Facts) -> None:
        first = int(maps.limits.BACKEND_HOP_FIRST)
        self.maps = maps
        self.facts = facts  # devices and neighbours, kept by who follows the host
        self.reached: dict[str, Reached] = {}
        self.hops = Hops(first, first + int(maps.limits.BACKEND_HOPS))
        self._retired: list[tuple[float, int]] = []
        self._unasked: list[NextHop] = []

    # how addresses are reached

    def look_up(self, addresses: Iterable[str], links: Mapping[int, Link]) -> dict[str, Reached]:
        """Ask the kernel for the way to each address; without one, or by a device that is not here, it is absent."""
        found: dict[str, Reached] = {}
        for address, answer in query.routes_to(addresses):
            link = links.get(answer.index)
            if link is not None and answer.type == "unicast" and link.name != "lo":
                found[address] = Reached(link.name, answer.gateway, answer.source, answer.mtu or link.mtu)
        return found

    def known(self, backends: Iterable[Backend], links: Mapping[int, Link]) -> None:
        """See to it that the way to each backend has been asked for."""
        asked = {asked_for(backend) for backend in backends} - self.reached.keys()
        if asked:
            self.reached.update(self.look_up(asked, links))

    def hop_of(self, backend: Backend) -> NextHop | None:
        """Return the next hop towards a backend, None where nothing leads to it."""
        return next_hop(backend, self.reached)

    def source_for(self, backend: Backend, addresses: Mapping[tuple[str, int], str]) -> str | None:
        """Return what the host would send to a backend from; `addresses` has one by device and family."""
        way = self.reached.get(asked_for(backend))
        family = 6 if ":" in backend.address else 4
        if backend.dev is not None and (way is None or way.dev != backend.dev):
            return addresses.get((backend.dev, family))
        if way is None:
            return None
        if way.source is not None and (":" in way.source) == (family == 6):
            return way.source
        return addresses.get((way.dev, family))

    # adjacencies

    def adjacency(self, hop: NextHop) -> Adjacency:
        """Return what a next hop's adjacency should hold now."""
        return resolve(hop, self.facts)

    def lacking(self, hops: Iterable[NextHop]) -> int:
        """Return how many of some next hops have no id yet."""
        return len(set(hops) - self.hops.ids.keys())

    @property
    def room(self) -> int:
        """How many more next hops there can be."""
        return self.hops.most - len(self.hops.hops) - len(self._retired)

    def use(self, hop: NextHop) -> int:
        """Return the id of a next hop that one more backend uses; its adjacency is written where it is new."""
        id = self.hops.ids.get(hop)
        if id is None:
            id = self.hops.take()
            self.hops.ids[hop], self.hops.hops[id] = id, hop
            self._write({id: self.adjacency(hop)})
            self._unasked.append(hop)
        self.hops.entries[id] += 1
        return id

    def ask(self) -> None:
        """Have the kernel find the MACs of next hops that are new; the watch tells the answers."""
        asked, self._unasked = self._unasked, []
        for hop in asked:
            device = self.facts.devices.get(hop.dev or "")
            if hop.via and device is not None and device.usable and (device.index, hop.via) not in self.facts.macs:
                try:
                    neighbour.resolve(device.index, hop.via)
                except HoplineError as error:
                    log.info("%s", error)

    def leave(self, id: int, now: float) -> None:
        """One backend fewer uses this id; the last one's is retired."""
        self.hops.entries[id] -= 1
        if self.hops.entries[id] <= 0:
            hop = self.hops.hops.pop(id)
            del self.hops.ids[hop], self.hops.entries[id]
            self.hops.contents.pop(id, None)
            self.maps.datapath.retire_adjacency(id)
            self._retired.append((now + REST_S, id))

    def free_rested(self, now: float) -> None:
        """Give ids back whose rest is over."""
        done = [id for until, id in self._retired if until <= now]
        if done:
            self._retired = [(until, id) for until, id in self._retired if until > now]
            self.maps.datapath.free_adjacencies(done)
            self.hops.give_back(done)

    def refresh(self, hops: Collection[NextHop] | None = None) -> set[int]:
        """Resolve next hops anew (all, unless told which); return the ids whose adjacency is another now."""
        changed: dict[int, Adjacency] = {}
        for hop in list(self.hops.ids) if hops is None else hops:
            id = self.hops.ids.get(hop)
            if id is not None and (now := self.adjacency(hop)) != self.hops.contents.get(id):
                changed[id] = now
        self._write(changed)
        return set(changed)

    def _write(self, adjacencies: Mapping[int, Adjacency]) -> None:
        self.maps.datapath.write_adjacencies(adjacencies)
        self.hops.contents.update(adjacencies)

    def repair(self) -> int:
        """Make adjacencies what they should be; return how many were not."""
        wrong = {
            id: wanted for id, wanted in self.hops.contents.items() if self.maps.datapath.read_adjacency(id) != wanted
        }
        self.maps.datapath.write_adjacencies(wrong)
        return len(wrong)

    def ready(self, id: int) -> bool:
        """Whether packets can leave through an id."""
        held = self.hops.contents.get(id)
        return held is not None and held.state == "READY"

    def following(self, addresses: set[str]) -> list[NextHop]:
        """Return the next hops whose MAC is followed through one of these neighbours."""
        return [hop for hop in self.hops.ids if hop.via in addresses]

    def neighbours(self) -> set[tuple[int, str]]:
        """Return (device index, address) of the neighbours that packets leave through, or would if they answered."""
        devices = self.facts.devices
        return {
            (devices[hop.dev].index, hop.via)
            for hop in list(self.hops.ids)
            if hop.via and hop.dev in devices and devices[hop.dev].usable
        }

    # adoption

    def adopt(self, uses: Iterable[tuple[NextHop | None, int]]) -> None:
        """Take over ids: the next hop that each backend should have by now, and the id that its row names.

        Ids that no row names, left by a change that was cut short, are free.
        """
        pairs = set(uses)
        for hop, id in pairs:
            if hop is not None and id and self._alike(hop, id):
                self.hops.adopt(hop, id)
        in_kernel = {id for _, id in pairs if id} | self._held()
        self.hops.settle(in_kernel)
        for id in self.hops.hops:
            held = self.maps.datapath.read_adjacency(id)
            if held is not None:
                self.hops.contents[id] = held
        self.refresh()

    def _alike(self, hop: NextHop, id: int) -> bool:
        if not self.hops.first <= id < self.hops.end:
            return False
        held = self.maps.datapath.read_adjacency(id)
        wanted = self.adjacency(hop)
        return held is not None and (held.family, held.next_hop) == (wanted.family, wanted.next_hop) and (
            not wanted.ifindex or held.ifindex == wanted.ifindex
        )  # fmt: skip

    def _held(self) -> set[int]:
        states = self.maps.datapath.adjacencies["state"][self.hops.first : self.hops.end]
        return {self.hops.first + i for i in states.nonzero()[0].tolist()}

    def drop_strays(self, now: float) -> None:
        """Retire ids that no backend uses."""
        for id in self._held() - set(self.hops.hops) - {id for _, id in self._retired}:
            self.maps.datapath.retire_adjacency(id)
            self._retired.append((now + REST_S, id))
