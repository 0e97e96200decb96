"""Pins of what was loaded on a device: `.programs/NETNS-INODE/DEV/{PROGRAM, MAP…}` on bpffs.

They are made beside their place and moved there once the program is attached, so that a load that fails leaves those
that were there before.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from hopline.errors import KernelError
from hopline.kernel import bpffs
from hopline.kernel.map import Map
from hopline.kernel.program import Program

WAITING = "loading_"
LONGEST_DEVICE = 15  # IFNAMSIZ - 1: a longer name is no device's


class Staged:
    """Pins that are not at their place yet: settle() moves them there, discard() removes them.

    `paths` are what they will be, as the host has them.
    """

    def __init__(self, device: str, program: Program, maps: Sequence[tuple[str, Map]]) -> None:
        """Pin the program and the maps that it uses, by their names in the object."""
        self._place = bpffs.program_dir(device, create=False)
        self._waiting = bpffs.program_dir(waiting(os.getpid()))
        self.paths = [bpffs.shown(self._place / name) for name in (program.name, *(name for name, _ in maps))]
        try:
            program.pin(self._waiting / program.name)
            for name, one in maps:
                one.pin(self._waiting / name)
        except BaseException:
            self.discard()
            raise

    def settle(self) -> None:
        """Put them in place of those that were there."""
        aside = bpffs.program_dir(waiting(f"before_{os.getpid()}"), create=False)
        replaced = bpffs.is_there(self._place)
        try:
            with bpffs.dotted(self._place):
                if replaced:
                    self._place.rename(aside)
                try:
                    self._waiting.rename(self._place)
                except BaseException:
                    if replaced:
                        aside.rename(self._place)
                    raise
        except OSError as error:
            raise KernelError(f"pin to {self._place}", error.errno or 0, "look what is there") from error
        remove(aside)

    def discard(self) -> None:
        """Remove them."""
        remove(self._waiting)


def waiting(whose: int | str) -> str:
    """A place for pins that are on their way to theirs, which no device can have."""
    return f"{WAITING}{whose}".ljust(LONGEST_DEVICE + 1, "_")


def of_device(device: str) -> Path | None:
    """The directory with a device's pins, or None if it has none."""
    place = bpffs.program_dir(device, create=False)
    return place if bpffs.is_there(place) else None


def remove_all(device: str) -> bool:
    """Remove a device's pins; False if there were none."""
    place = of_device(device)
    if place is not None:
        remove(place)
    return place is not None


def move(device: str, name: str) -> list[str]:
    """Have the pins of `device` in the place of `name`, instead of what is there; their paths."""
    place = of_device(device)
    if place is None:
        return []
    target = bpffs.program_dir(name, create=False)
    remove(target)
    with bpffs.dotted(target):
        place.rename(target)
    return [bpffs.shown(pin) for pin in sorted(target.iterdir())]


def sweep() -> None:
    """Remove what a load that was killed left, while no other is under way (record.locked)."""
    for directory in _directories():
        if directory.name.startswith(WAITING) and len(directory.name) > LONGEST_DEVICE:
            remove(directory)


def _directories() -> list[Path]:
    place = bpffs.program_dir("any", create=False).parent
    return list(place.iterdir()) if bpffs.is_there(place) else []


def remove_namespace() -> None:
    """Remove the pins of all devices of the calling thread's namespace, and what a load left that was killed."""
    for directory in _directories():
        remove(directory)


def remove(directory: Path) -> None:
    """Remove a directory of pins, and that of the namespace if it was the last."""
    if not bpffs.is_there(directory):
        return
    for pin in directory.iterdir():
        pin.unlink()
    directory.rmdir()
    with contextlib.suppress(OSError):
        directory.parent.rmdir()
