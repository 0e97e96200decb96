"""The changes a store can be asked to make durable; pure values."""

from dataclasses import dataclass

from hopline.config import Forward, Interface


@dataclass(frozen=True, slots=True)
class PutInterface:
    """Enter an interface, or replace the one of that name."""

    interface: Interface


@dataclass(frozen=True, slots=True)
class DeleteInterface:
    """Forget the interface of this name, if there is one."""

    name: str


@dataclass(frozen=True, slots=True)
class PutForward:
    """Enter an operator entry, or replace the one to that destination."""

    forward: Forward


@dataclass(frozen=True, slots=True)
class DeleteForward:
    """Forget the entry to this destination, if there is one."""

    to: str


Change = PutInterface | DeleteInterface | PutForward | DeleteForward
