"""VIPs on the wire: added to a device, so that the kernel answers ARP and neighbour solicitations for them."""

import logging
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from hopline.config import Service
from hopline.daemon.balance.vips import VipIndex
from hopline.errors import HoplineError, InvalidInput, KernelError
from hopline.kernel.netlink import query
from hopline.kernel.netlink.own import Announcer, add_address, remove_address
from hopline.kernel.netlink.types import Address, Link

log = logging.getLogger("hopline")

ANNOUNCEMENTS = 3  # one may be lost


class Wire:
    """Adds and removes addresses. Which ones are ours is on record in the VIPs' rows, so it outlives the daemon."""

    def __init__(self, vips: VipIndex) -> None:
        self._vips = vips
        self._announcer = Announcer()
        self._due: list[tuple[str, str, int]] = []  # device, address, how often still
        self._on: dict[str, int] = {}  # VIPs that are ours: device index, as far as it was asked for

    def device_for(
        self, service: Service, links: Mapping[int, Link], addresses: Iterable[Address] | None = None
    ) -> Link:
        """Return the device that is to have a service's VIP; InvalidInput where none can be told.

        `addresses`: of the host, where the caller has them: they are read for this service alone otherwise.
        """
        by_name = {link.name: link for link in links.values()}
        if service.own_dev is not None:
            found = by_name.get(service.own_dev)
            if found is None or found.name == "lo" or not found.ethernet:
                raise InvalidInput("own_dev", f"{service.own_dev} is no Ethernet device here", "`ip link` lists them")
            return found
        vip = ip_address(service.vip)
        for held in query.addresses() if addresses is None else addresses:
            network = ip_network((held.address, held.prefix_length), strict=False)
            link = links.get(held.index)
            alone = network.num_addresses == 1
            if link is not None and link.ethernet and link.name != "lo" and vip in network and not alone:
                return link
        raise InvalidInput("own_dev", f"{service.vip} is in the network of no device here", "say which: --own-dev DEV")

    def has(self, vip: str) -> bool:
        """Whether a VIP is an address of a device here."""
        # all addresses are read for one that is not known of alone: there may be a thousand VIPs
        return vip in self._vips.local or any(held.address == vip for held in query.addresses())

    def own(self, service: Service, links: Mapping[int, Link]) -> None:
        """Have a service's VIP on a device; one that the host had before is left alone, also when the service goes."""
        if service.own_dev is not None and service.vip in self._vips.owned:
            link = self.device_for(service, links)
            if self._device_of(service.vip) not in (None, link.index):
                self.remove(service.vip)
                self._add(link, service.vip)
                return
        if service.vip in self._vips.local:
            return
        addresses = query.addresses()
        if any(held.address == service.vip for held in addresses):
            return
        self._add(self.device_for(service, links, addresses), service.vip)

    def _device_of(self, vip: str) -> int | None:
        """Return the index of the device that has a VIP of ours, None where none has."""
        if vip not in self._on:
            # for all of them at once: a daemon that starts may find a thousand
            owned = self._vips.owned
            self._on.update((held.address, held.index) for held in query.addresses() if held.address in owned)
        return self._on.get(vip)

    def _add(self, link: Link, vip: str) -> None:
        # first the record: what is on it and not there does no harm
        self._record(vip, owned=True)
        try:
            added = add_address(link, vip)
        except HoplineError:
            self._record(vip, owned=False)
            raise
        if added:
            self._on[vip] = link.index
            self._vips.local |= {vip}  # before the kernel has said so
            self._record(vip, owned=True)
            log.info("%s: %s added", link.name, vip)
            self._announcer.announce(link, vip)
            self._due.append((link.name, vip, ANNOUNCEMENTS - 1))

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
        self._on.pop(vip, None)
        self._vips.local -= {vip}  # before the kernel has said so: it may be wanted again at once
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
