"""The noun `interface`: what of the intent is attached, what keeps the rest from it, and what to beware of."""

import asyncio
import logging

from hopline.config import Interface
from hopline.daemon.attachments import Attachments
from hopline.daemon.surroundings import Surroundings
from hopline.errors import HoplineError, InvalidInput, NotFound
from hopline.kernel.netlink.traps import traps
from hopline.kernel.netlink.types import Link
from hopline.store.change import DeleteInterface, PutInterface
from hopline.store.embedded import Store

log = logging.getLogger("hopline")


class Interfaces:
    """Intent and kernel state of interfaces, kept together. Called for one change at a time."""

    def __init__(self, store: Store, attachments: Attachments, surroundings: Surroundings) -> None:
        self.store = store
        self.attachments = attachments
        self.surroundings = surroundings
        self.problems: dict[str, str] = {}  # by name: why it is not attached
        self.warnings: dict[str, list[str]] = {}  # by name: traps of the device

    @property
    def wanted(self) -> dict[str, Interface]:
        """The interfaces of the intent by name."""
        return self.surroundings.wanted

    def named(self, name: str) -> Interface:
        """Return an interface of the intent; NotFound if there is none of this name."""
        if name not in self.wanted:
            raise NotFound(f"interface {name}: not one of Hopline's: `hopline interface add {name}` first")
        return self.wanted[name]

    def attach_all(self) -> None:
        """Attach what the intent names; what cannot be adopted is named and left as it is, forwarding."""
        wanted = set()
        for interface in self.wanted.values():
            link = self.surroundings.link_named(interface.name)
            if link is None:
                log.warning("%s does not exist: it is attached when it appears", interface.name)
                continue
            wanted.add(link.index)
            try:
                self.attachments.attach(interface, link, replace=False)
                self._look(link)
            except HoplineError as error:
                self.problems[interface.name] = str(error)
                log.error("%s", error)
        self.attachments.detach_unwanted(wanted)

    async def attach_returned(self, link: Link) -> None:
        """Attach a device that appeared, or whose link somebody took away."""
        interface = self.wanted.get(link.name)
        if interface is None or link.index in self.attachments.by_index:
            return
        try:
            await asyncio.to_thread(self.attachments.attach, interface, link, replace=False)
        except HoplineError as error:
            if self.problems.get(link.name) == str(error):
                return  # it has been said, and is tried every few seconds
            self.problems[link.name] = str(error)
            raise
        self._look(link)
        self.surroundings.apply_policy()
        log.info("%s is back: attached", link.name)

    async def put(self, interface: Interface, replace: bool = False) -> None:
        """Enter or change an interface. The store is written first, since it can be put back and a program cannot."""
        link = self._suitable(interface.name)
        if link.index not in self.attachments.slots:
            self.surroundings.know_the_rest(link.name)
        old = self.wanted.get(interface.name)
        held = self.attachments.by_index.get(link.index)
        mode_before = held.mode if held else None
        self.store.write([PutInterface(interface)])
        # before it is attached: an event that comes meanwhile would find a program on a device that nobody wants
        self.wanted[interface.name] = interface
        try:
            if old is not None and old.mode != "auto" and interface.mode == "auto":
                self.attachments.detach(link.index)  # so that native is tried again
            await asyncio.to_thread(self.attachments.attach, interface, link, replace=replace)
        except BaseException:
            if old is not None:
                self.wanted[interface.name] = old
            else:
                del self.wanted[interface.name]
            self.store.write([PutInterface(old) if old else DeleteInterface(interface.name)])
            if old is not None and mode_before is not None and link.index not in self.attachments.by_index:
                self.attachments.attach(old, link, replace=False)
                self.surroundings.apply_policy()
            raise
        self._look(link)
        try:
            await self.surroundings.read_policy()
        except HoplineError as error:
            log.warning("read policy: %s", error)  # it is read again every few seconds

    def put_absent(self, interface: Interface) -> None:
        """Change an interface whose device does not exist now."""
        self.store.write([PutInterface(interface)])
        self.wanted[interface.name] = interface

    def delete(self, name: str) -> None:
        """Detach and forget."""
        self.named(name)
        self.store.write([DeleteInterface(name)])
        del self.wanted[name]
        self.problems.pop(name, None)
        self.warnings.pop(name, None)
        if (link := self.surroundings.link_named(name)) is not None:
            self.attachments.detach(link.index)

    def _suitable(self, name: str) -> Link:
        link = self.surroundings.link_named(name)
        if link is None:
            raise InvalidInput("interface", f"{name} is no device here", "`ip link` lists them")
        if not link.ethernet or link.name == "lo":
            raise InvalidInput("interface", f"{name} is not an Ethernet device", "name one that is")
        return link

    def _look(self, link: Link) -> None:
        """Attached: no problem any more, and the device's traps are known."""
        self.problems.pop(link.name, None)
        try:
            self.warnings[link.name] = traps(link.index)
        except HoplineError as error:
            log.info("look for traps of %s: %s", link.name, error)
