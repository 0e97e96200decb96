"""Services, backends and tunnels behind the numbers in a record, as the daemon knows them."""

from collections.abc import Callable
from dataclasses import dataclass

from hopline.config import Decap, Service
from hopline.daemon.balance.balance import Balance
from hopline.daemon.balance.rows import Checks, ServiceRows
from hopline.daemon.balance.served import NOBODY, Member, Served
from hopline.features.balance import text_of


@dataclass(frozen=True)
class SeenBackend:
    """A backend as it is now; `address` is "" where no backend may take new flows. `via` is its next hop's address."""

    address: str
    weight: int = 0
    state: str = ""  # up, down, draining, leaving, unresolved, unchecked
    reason: str = ""
    via: str | None = None


class ServedHost:
    """Finds them by their rows; asked in a thread."""

    def __init__(self, balance: Balance, rows: ServiceRows, checks: Callable[[str], Checks]) -> None:
        self._balance = balance
        self._balancer = balance.balancer
        self._rows = rows
        self._checks = checks

    def service(self, row: int) -> Service | None:
        """Return the service in a row of the kernel's; None for one that has just gone."""
        with self._balancer.lock:
            served = self._served(row)
            return served.service if served is not None else None

    def backend(self, row: int, number: int) -> SeenBackend | None:
        """Return the backend that has a number in a service's row; None for one that has just gone."""
        with self._balancer.lock:
            served = self._served(row)
            if served is None:
                return None
            held = {taken: address for address, taken in served.numbers.holders.items()}
            address = held.get(number)
            if address == NOBODY:
                return SeenBackend(NOBODY)
            member = served.members.get(address) if address is not None else None
            if address is None or member is None:
                return None
            check = self._checks(served.service.name).get(address)
            state, reason = self._rows.state_of(served, member, check)
            return SeenBackend(address, member.backend.weight, state, reason, self._via(member))

    def _served(self, row: int) -> Served | None:
        known = (*self._balancer.by_name.values(), *self._balancer.ending)
        return next((served for served in known if served.row == row), None)

    def _via(self, member: Member) -> str | None:
        held = self._balancer.hops.hops.contents.get(member.hop)
        return text_of(held.family, held.next_hop) if held is not None and held.family else None

    def decap(self, row: int) -> Decap | None:
        """Return the entry whose counter is in a row."""
        decaps = self._balance.decaps
        key = next((key for key, taken in list(decaps.rows.items()) if taken == row), None)
        return decaps.wanted.get(key) if key is not None else None

    def decaps(self, local: str, encap: str) -> list[Decap]:
        """Return the entries of a local address."""
        known = list(self._balance.decaps.wanted.values())
        return [decap for decap in known if (decap.local, decap.encap) == (local, encap)]
