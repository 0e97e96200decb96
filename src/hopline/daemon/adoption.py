"""Adoption: what made the maps that an instance has pinned, and whether this build may take them over as they are.

The maps outlive the daemon and its package, so each instance says in a map of its own, `identity`, which build made
them. Another build leaves them alone, forwarding, until `hopline upgrade` moves their contents into maps of its own:
beside them in MAKING, which is nothing yet, then in READY, whose contents are whole.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hopline import __version__
from hopline.errors import KernelError, Refused
from hopline.kernel import BpfObject, Layout, Map, XdpLink, netns
from hopline.kernel.object import ObjectFile

PRIVATE_MAPS = ("trace_record", "trace_events")
CACHES = ("cache4", "cache6")
SIZED = ("rings", "backends", "backend_count", "flows")  # one element until there is a service; see Datapath.enlarge
IDENTITY = "identity"

MAKING = "upgrade_making"
READY = "upgrade_ready"
OUTDATED = "upgrade_outdated"  # was ready, and another build makes its own


@dataclass(frozen=True, slots=True)
class Identity:
    """What made an instance's maps, and in which network namespace its devices are (an inode, 0 is none yet).

    `version` is empty where an early build made them, which did not say.
    """

    version: str
    digest: bytes
    netns: int = 0

    @classmethod
    def of(cls, file: ObjectFile) -> "Identity":
        """Return this build's, here."""
        return cls(__version__, file.digest, netns.inode())

    def same_build(self, other: "Identity") -> bool:
        """Return whether one build made both."""
        return (self.version, self.digest) == (other.version, other.digest)

    def __str__(self) -> str:
        if not self.version:
            return "a hopline that did not say its version"
        return f"hopline {self.version} (object {self.digest.hex()[:8]})"


def take_lock(directory: Path, refusal: str) -> int:
    """Return a descriptor that holds the instance for as long as it is open; Refused(refusal) where another does."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Refused(refusal) from None
    return lock


def pinned_identity(directory: Path, layout: Layout) -> Identity | None:
    """Return what made the maps pinned in `directory`, None where there are none; `layout` is this build's."""
    if (directory / IDENTITY).exists():
        row = _row(directory / IDENTITY, layout.struct("identity"))
        digest = row["object"].tobytes()
        return Identity(row["version"].decode(errors="replace"), digest, int(row["netns"]))
    if not (directory / "state").exists():
        return None
    row = _row(directory / "state", layout.struct("state"))
    return Identity("", b"", int(row["spare"][0]))  # where those that did not say their version kept it


def _row(pin: Path, ours: np.dtype[Any]) -> Any:
    with Map.from_pin(pin) as held:
        value = held.get(0)
    if value.dtype.names is None and value.dtype.itemsize == ours.itemsize:
        return value.reshape(1).view(ours)[0]  # without the right to read the kernel's BTF
    return value


def write_identity(held: Map, identity: Identity) -> None:
    """Write it into the map `identity`; one call, so whole or not at all."""
    row = np.zeros((), held.value_dtype)
    row["version"] = identity.version.encode()
    row["object"] = np.frombuffer(identity.digest, np.uint8)
    row["netns"] = identity.netns
    held.set(0, row)


def shared_maps(opened: BpfObject) -> list[str]:
    """Return the names of the maps that all programs of an instance share: those that are pinned."""
    return [name for name in opened.maps() if name not in PRIVATE_MAPS]


def check_adoptable(instance: str, directory: Path, own: Identity, layout: Layout) -> None:
    """Refuse what another build made, or is about to, and what is attached elsewhere; nothing is touched."""
    for begun in (READY, OUTDATED):
        if (directory / begun / IDENTITY).exists():
            other = pinned_identity(directory / begun, layout)
            raise Refused(
                f"adopt instance {instance}: an upgrade to {other} was begun and not finished: it goes on forwarding "
                f"as it is: `hopline upgrade --instance {instance}` finishes it"
            )
    made = pinned_identity(directory, layout)
    if made is not None and not made.same_build(own):
        raise Refused(
            f"adopt instance {instance}: it was loaded by {made}, and this is {own}: it goes on forwarding as it is: "
            f"`hopline upgrade --instance {instance}` swaps it in place"
        )
    if made is not None:
        check_namespace(f"serve instance {instance}", made.netns, directory)


def check_namespace(asked: str, bound: int, directory: Path) -> None:
    """Refuse to act here where the instance is attached to devices of another network namespace, `bound`."""
    here = netns.inode()
    if bound not in (0, here) and attached(directory):
        raise Refused(
            f"{asked}: its interfaces are in network namespace {bound}, and this is {here}: do it there, or "
            f"`hopline detach --instance {directory.name}` first"
        )


def attached(directory: Path) -> bool:
    """Return whether any link pinned in `directory` is on a device."""
    for pin in directory.glob("link_*"):
        with XdpLink.from_pin(pin) as link:
            if link.ifindex != 0:
                return True
    return False


def open_maps(
    file: ObjectFile, instance: str, directory: Path, cache_size: int, sizes: Mapping[str, int] | None = None
) -> BpfObject:
    """Load the object's maps, those pinned in `directory` as they are, the others new and pinned there.

    `sizes` are those of new maps of SIZED, in elements. Of a new instance the first to be pinned says what made it, so
    that one that was cut short is known for what it is.
    """
    opened = file.open()
    opened.only("extend_lease")
    own, limits = Identity.of(file), opened.layout.enum("limit")
    check_adoptable(instance, directory, own, opened.layout)
    for leftover in (MAKING, READY, OUTDATED):
        discard(directory / leftover)
    forget_enlarging(directory)
    buckets = cache_size // limits["CACHE4_WAYS"]
    missing = []
    for name in shared_maps(opened):
        pin = directory / name
        if name in CACHES:
            opened.resize(name, buckets)
        if not pin.exists():
            if sizes and name in sizes:
                opened.resize(name, sizes[name])
            missing.append(name)
            continue
        pinned = Map.from_pin(pin)
        if name in SIZED:
            opened.resize(name, pinned.max_entries)
        if name in CACHES and pinned.max_entries != buckets:
            # a cache may be had anew at any time; the programs get it when they are next loaded
            pinned.unpin()
            missing.append(name)
            continue
        try:
            opened.reuse(name, pinned)
        except KernelError as error:
            raise Refused(
                f"adopt instance {instance}: {error}: it goes on forwarding as it is; "
                f"`hopline detach --instance {instance}` removes it"
            ) from error
    opened.load()
    if IDENTITY in missing:
        write_identity(opened.map(IDENTITY), own)
    for name in sorted(missing, key=lambda name: name != IDENTITY):
        opened.map(name).pin(directory / name)
    return opened


def enlarging(directory: Path, name: str) -> Path:
    """Return where a larger map of SIZED is pinned before it takes the place of the one that is there."""
    return directory / f"{name}_larger"


def forget_enlarging(directory: Path) -> None:
    """Remove larger maps that were made and never took their place."""
    for name in SIZED:
        enlarging(directory, name).unlink(missing_ok=True)


def discard(directory: Path) -> None:
    """Remove a directory of pinned maps, where there is one."""
    if directory.exists():
        for pin in list(directory.iterdir()):
            pin.unlink()
        directory.rmdir()
