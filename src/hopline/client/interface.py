"""The verbs of the noun `interface`."""

from typing import TYPE_CHECKING

import msgspec

from hopline.client.query import flag, path
from hopline.config import Interface, Mode, device_name
from hopline.daemon.protocol import InterfaceAdded, InterfaceState

if TYPE_CHECKING:
    from hopline.client import Client


class InterfaceVerbs:
    """The verbs of the noun `interface`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def add(
        self, name: str, *, mode: Mode = "auto", bypass_policy: bool = False, replace: bool = False
    ) -> InterfaceAdded:
        """Handle what `name` receives; `replace` takes the device from another program."""
        from hopline.host.lend import lent, traps_seen  # here, for it may load libbpf

        body = Interface(name, mode, bypass_policy)
        state = self._client.status()
        with lent(state.instance, state.pid, state.netns, name, replace=replace):
            added = self._client.ask("POST", "/interfaces", {"replace": flag(replace)}, body, kind=InterfaceAdded)
        seen = traps_seen(state.pid, state.netns, name)
        # who may look into more namespaces than the daemon sees all that it does, and names the peer
        return InterfaceAdded(added.interface, added.state, seen or added.warnings)

    def set(self, name: str, *, mode: Mode | None = None, bypass_policy: bool | None = None) -> InterfaceAdded:
        """Change what is given."""
        given: dict[str, object] = {"mode": mode, "bypass_policy": bypass_policy}
        body = {field: value for field, value in given.items() if value is not None}
        return self._client.ask("PATCH", _interface(name), body=body, kind=InterfaceAdded)

    def delete(self, name: str) -> None:
        """Stop handling what `name` receives."""
        self._client.ask("DELETE", _interface(name), kind=msgspec.Raw)

    def show(self, name: str | None = None) -> list[InterfaceState]:
        """Return all interfaces, or the one named; NotFound if there is none of that name."""
        if name is None:
            return self._client.ask("GET", "/interfaces", kind=list[InterfaceState])
        return [self._client.ask("GET", _interface(name), kind=InterfaceState)]


def _interface(name: str) -> str:
    return path("interfaces", device_name(name, "name"))
