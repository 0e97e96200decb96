"""How backends are reached: services follow what the host's routes, devices and neighbours become."""

import logging
import time
from collections.abc import Collection

from hopline.config import NextHop
from hopline.daemon.balance.balancer import Balancer
from hopline.errors import HoplineError
from hopline.features.balance import asked_for

log = logging.getLogger("hopline")


class Follower:
    """Has one balancer's services follow; called in a thread, takes the lock service by service."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def follow(self, hops: Collection[NextHop] | None) -> None:
        """Resolve next hops anew, all where None, and let services whose backends are reached again have them."""
        balancer = self._balancer
        with balancer.lock:
            now = time.monotonic()
            changed = balancer.hops.refresh(hops)
            for name in {name for id in changed for name in balancer.by_hop.get(id, ())}:
                self._look(name, now)

    def _look(self, name: str, now: float) -> None:
        balancer = self._balancer
        served = balancer.by_name.get(name)
        if served is None:
            return
        changed = [balancer.note_ready(served, member, now) for member in served.members.values()]
        if any(changed):
            balancer.aim_in_time(served, now)

    def reroute(self) -> None:
        """Ask the kernel again how every backend is reached, and follow where that is another way.

        A service that cannot follow holds up no other; the last one's failure is raised at the end.
        """
        balancer = self._balancer
        with balancer.lock:
            names = list(balancer.by_name)
            backends = (m.backend for served in balancer.by_name.values() for m in served.members.values())
            asked, links = set(map(asked_for, backends)), balancer.links
        reached = balancer.hops.look_up(asked, links)  # without the lock: there may be many
        with balancer.lock:
            now = {**balancer.hops.reached, **reached}
            for address in asked - reached.keys():
                now.pop(address, None)
            balancer.know(balancer.links, balancer.sources, now)
        failure: HoplineError | None = None
        for name in names:
            with balancer.lock:
                served = balancer.by_name.get(name)
                if served is None:
                    continue
                try:
                    balancer.change(served, served.service, time.monotonic())
                except HoplineError as error:
                    log.warning("service %s: %s", name, error)
                    failure = error
        self.follow(None)
        if failure is not None:
            raise failure
