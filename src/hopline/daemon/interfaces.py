"""The noun `interface`: what of the intent is attached, what keeps the rest from it, and what to beware of."""

import asyncio
import logging
from collections.abc import Collection

from hopline.config import Interface
from hopline.daemon.attachments import Attachments
from hopline.daemon.plan import Tables
from hopline.daemon.surroundings import Surroundings
from hopline.errors import HoplineError, NotFound, Refused
from hopline.intent import Delta
from hopline.kernel.netlink.traps import traps
from hopline.kernel.netlink.types import Link

log = logging.getLogger("hopline")


class Interfaces:
    """Intent and kernel state of interfaces, kept together. Called for one change at a time."""

    def __init__(self, attachments: Attachments, surroundings: Surroundings) -> None:
        self.attachments = attachments
        self.surroundings = surroundings
        self.problems: dict[str, str] = {}  # by name: why it is not attached
        self.warnings: dict[str, list[str]] = {}  # by name: traps of the device
        self.taking_over: Collection[str] = ()  # devices whose other program the change under way may remove
        self.patient = False  # the change under way is made also where a program cannot be attached yet

    @property
    def wanted(self) -> dict[str, Interface]:
        """The interfaces of the intent by name."""
        return self.surroundings.wanted

    def named(self, name: str) -> Interface:
        """Return an interface of the intent; NotFound if there is none of this name."""
        if name not in self.wanted:
            raise NotFound(f"interface {name}: not one of Hopline's: `hopline interface add {name}` first")
        return self.wanted[name]

    # start, and devices that come back

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

    async def attach_returned(self, link: Link) -> bool:
        """Attach a device that appeared, or whose link somebody took away; return whether it came to that."""
        interface = self.wanted.get(link.name)
        if interface is None or link.index in self.attachments.by_index:
            return False
        try:
            await asyncio.to_thread(self.attachments.attach, interface, link, replace=False)
        except HoplineError as error:
            if self.problems.get(link.name) == str(error):
                return False  # it has been said, and is tried every few seconds
            self.problems[link.name] = str(error)
            raise
        self._look(link)
        self.surroundings.apply_policy()
        log.info("%s is back: attached", link.name)
        return True

    # changes

    def draft(self, delta: Delta, taking_over: Collection[str] = (), anew: Collection[str] = ()) -> "InterfaceDraft":
        """Begin a change, in the event loop; `anew` are to be attached although nothing changes about them."""
        return InterfaceDraft(self, delta, taking_over, anew)

    def attach_interface(self, before: Interface | None, after: Interface) -> None:
        """Attach the pipeline to a device, or give it other settings."""
        try:
            self._attach(before, after)
        except HoplineError as error:
            if not self.patient:
                raise
            self.problems[after.name] = str(error)
            log.error("%s: it is tried again", error)

    def _attach(self, before: Interface | None, after: Interface) -> None:
        link = self.surroundings.link_named(after.name)
        if link is None:
            raise Refused(f"attach xdp pipeline to {after.name}: the device is gone")
        if before is not None and before.mode != "auto" and after.mode == "auto":
            self.attachments.detach(link.index)  # so that native is tried again
        self.attachments.attach(after, link, replace=after.name in self.taking_over)
        self._look(link)

    def detach_interface(self, name: str) -> None:
        """Take the pipeline off a device; where there is none it is no error."""
        if (link := self.surroundings.link_named(name)) is not None:
            self.attachments.detach(link.index)

    def _look(self, link: Link) -> None:
        """Attached: no problem any more, and the device's traps are known."""
        self.problems.pop(link.name, None)
        try:
            self.warnings[link.name] = traps(link.index)
        except HoplineError as error:
            log.info("look for traps of %s: %s", link.name, error)


class InterfaceDraft:
    """A change of interfaces: what is attached of those it touches, and what should be where their device exists.

    What is wanted anew is known from the start: an event that comes while a program is attached would else find it on a
    device that nobody wants.
    """

    def __init__(
        self, interfaces: Interfaces, delta: Delta, taking_over: Collection[str], anew: Collection[str]
    ) -> None:
        self._interfaces = interfaces
        self._delta = delta
        interfaces.taking_over = taking_over
        wanted = interfaces.wanted
        again = {name: wanted[name] for name in anew if name in wanted and name not in delta.after}
        self.have = Tables(interfaces={name: old for name, old in delta.before.items() if self._attached(name)})
        self.want = Tables(interfaces={name: new for name, new in {**delta.after, **again}.items() if self._link(name)})
        for name in self.want.interfaces:
            link = self._link(name)
            if link is not None and link.index not in interfaces.attachments.slots:
                interfaces.surroundings.know_the_rest(name)
        wanted.update(delta.after)

    def _link(self, name: str) -> Link | None:
        return self._interfaces.surroundings.link_named(name)

    def _attached(self, name: str) -> bool:
        link = self._link(name)
        return link is not None and link.index in self._interfaces.attachments.by_index

    def commit(self) -> None:
        """It is in the kernel and durable."""
        self._interfaces.taking_over = ()
        for name in self._delta.removed:
            # not before: an event would have had it detached, even if nothing came of the change
            self._interfaces.wanted.pop(name, None)
            self._interfaces.problems.pop(name, None)
            self._interfaces.warnings.pop(name, None)

    def abandon(self) -> None:
        """It was undone, or never begun."""
        self._interfaces.taking_over = ()
        for name in self._delta.added:
            self._interfaces.wanted.pop(name, None)
        self._interfaces.wanted.update(self._delta.before)
