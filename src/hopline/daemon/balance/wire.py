"""VIPs on the wire: added to a device, so that the kernel answers ARP and neighbour solicitations for them."""

import logging
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from hopline.config import Service
from hopline.daemon.balance.vips import VipIndex
from hopline.errors import HoplineError, InvalidInput, KernelError
from hopline.kernel.netlink import query
from hopline.kernel.netlink.own import Announcer, add_address, remove_address
from hopline.kernel.netlink.types import Link

log = logging.getLogger("hopline")

ANNOUNCEMENTS = 3  # one may be lost


class Wire:
    """Adds and removes addresses. Which ones are ours is on record in the VIPs' rows, so it outlives the daemon."""

    def __init__(self, vips: VipIndex) -> None:
        self._vips = vips
        self._announcer = Announcer()
        self._due: list[tuple[str, str, int]] = []  # device, address, how often still

    def device_for(self, service: Service, links: Mapping[int, Link]) -> Link:
        """Return the device that is to have a service's VIP; InvalidInput where none can be told."""
        by_name = {link.name: link for link in links.values()}
        if service.own_dev is not None:
            found = by_name.get(service.own_dev)
            if found is None or found.name == "lo" or not found.ethernet:
                raise InvalidInput("own_dev", f"{service.own_dev} is no Ethernet device here", "`ip link` lists them")
            return found
        vip = ip_address(service.vip)
        for held in query.addresses():
            network = ip_network((held.address, held.prefix_length), strict=False)
            link = links.get(held.index)
            alone = network.num_addresses == 1
            if link is not None and link.ethernet and link.name != "lo" and vip in network and not alone:
                return link
        raise InvalidInput("own_dev", f"{service.vip} is in the network of no device here", "say which: --own-dev DEV")

    def has(self, vip: str) -> bool:
        """Whether a VIP is an address of a device here."""
        return any(held.address == vip for held in query.addresses())

    def own(self, service: Service, links: Mapping[int, Link]) -> None:
        """Have a service's VIP on a device; one that the host had before is left alone, also when the service goes."""
        if self.has(service.vip):
            return
        link = self.device_for(service, links)
        # first the record: what is on it and not there does no harm
        self._record(service.vip, owned=True)
        try:
            added = add_address(link, service.vip)
        except HoplineError:
            self._record(service.vip, owned=False)
            raise
        if added:
            log.info("%s: %s added", link.name, service.vip)
            self._announcer.announce(link, service.vip)
            self._due.append((link.name, service.vip, ANNOUNCEMENTS - 1))

    def disown(self, vip: str) -> None:
        """Take a VIP off the device that it was added to, if it was."""
        if vip in self._vips.owned:
            self.remove(vip)
            self._record(vip, owned=False)

    def _record(self, vip: str, *, owned: bool) -> None:
        (self._vips.owned.add if owned else self._vips.owned.discard)(vip)
        if (held := self._vips.vips.get(vip)) is not None:
            self._vips.refresh_flags(held)

    def remove(self, vip: str) -> None:
        """Remove a VIP from the device that has it; what cannot be removed is logged."""
        self._due = [each for each in self._due if each[1] != vip]
        alone = 128 if ":" in vip else 32
        for held in query.addresses():
            if held.address == vip and held.prefix_length == alone:
                try:
                    remove_address(held.index, vip)
                    log.info("%s removed from its device", vip)
                except KernelError as error:
                    log.error("%s", error)

    def pass_time(self, links: Mapping[int, Link]) -> None:
        """Announce again what was added a moment ago; called every so often."""
        by_name = {link.name: link for link in links.values()}
        again = []
        for name, vip, left in self._due:
            if name in by_name:
                self._announcer.announce(by_name[name], vip)
                if left > 1:
                    again.append((name, vip, left - 1))
        self._due = again

    def close(self) -> None:
        """Let the socket go."""
        self._announcer.close()
