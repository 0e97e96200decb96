"""What the API asks of interfaces."""

from hopline.config import Interface, Mode
from hopline.daemon.core import Core
from hopline.daemon.protocol import (
    InterfaceAdded,
    InterfaceState,
)
from hopline.errors import Refused
from hopline.intent import one_entry


class InterfaceCalls(Core):
    """Of the noun `interface`."""

    async def interfaces(self) -> list[InterfaceState]:
        """Return all interfaces of the intent."""
        return self.readout.interfaces(self.kept_interfaces.problems, self.kept_interfaces.warnings)

    async def _interface_added(self, interface: Interface) -> InterfaceAdded:
        state = next(i for i in await self.interfaces() if i.name == interface.name)
        return InterfaceAdded(interface, state, state.warnings)

    async def interface_add(self, interface: Interface, replace: bool) -> InterfaceAdded:
        """Attach to a device; `replace` takes it from another program."""
        async with self.changes.lock:
            name = interface.name
            old = self.kept_interfaces.wanted.get(name)
            taken_over = replace and name in self.kept_interfaces.problems
            if old is not None and not taken_over:
                raise Refused(f"interface {name} exists: use set")
            change = one_entry("interface", name, old, interface)
            taking = (name,) if replace else ()
            await self.changes.make(change, f"interface add {name}", taking_over=taking, anew=taking)
            return await self._interface_added(interface)

    async def interface_set(self, name: str, mode: Mode | None, bypass_policy: bool | None) -> InterfaceAdded:
        """Change what is not None."""
        async with self.changes.lock:
            old = self.kept_interfaces.named(name)
            new = Interface(
                name,
                old.mode if mode is None else mode,
                old.bypass_policy if bypass_policy is None else bypass_policy,
            )
            await self.changes.make(one_entry("interface", name, old, new), f"interface set {name}")
            return await self._interface_added(new)

    async def interface_del(self, name: str) -> None:
        """Detach and forget."""
        async with self.changes.lock:
            old = self.kept_interfaces.named(name)
            await self.changes.make(one_entry("interface", name, old, None), f"interface del {name}")
