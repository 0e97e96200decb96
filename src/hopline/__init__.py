"""Hopline: a programmable next hop for Linux.

`connect()` gives a running daemon's verbs; `hopline.kernel` (objects, maps, links, rings) is usable without a daemon.
Names are loaded when first used, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopline.client import Client, connect
    from hopline.config import Backend, Decap, Forward, Intent, Interface, Service
    from hopline.errors import (
        HoplineError,
        InvalidInput,
        InvalidInputs,
        KernelError,
        LayoutError,
        NotFound,
        Refused,
        Unavailable,
        VerifierRefusal,
    )

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "Client",
    "Decap",
    "Forward",
    "HoplineError",
    "Intent",
    "Interface",
    "InvalidInput",
    "InvalidInputs",
    "KernelError",
    "LayoutError",
    "NotFound",
    "Refused",
    "Service",
    "Unavailable",
    "VerifierRefusal",
    "__version__",
    "connect",
]

_HOMES = {
    **dict.fromkeys(("Client", "connect"), "client"),
    **dict.fromkeys(("Backend", "Decap", "Forward", "Intent", "Interface", "Service"), "config"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hopline' has no attribute {name!r}")
    value = getattr(import_module(f"hopline.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
