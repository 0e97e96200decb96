"""`hopline upgrade`: this build's programs and maps in place of those another build left, under traffic.

    make    maps of this build beside the old ones, filled with what those hold; the programs over them
    switch  every link runs the new program from one packet to the next
    settle  the new pins take the old ones' places, the one that says what made them last

Until `switch` the old programs run on the old maps, then each interface is served by the new ones, and both sets hold
the same entries: so it may end at any point, and the next upgrade, by whatever build, goes on from there.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hopline.daemon.adoption import (
    IDENTITY,
    MAKING,
    OUTDATED,
    READY,
    SIZED,
    Identity,
    check_namespace,
    discard,
    forget_enlarging,
    pinned_identity,
    shared_maps,
    take_lock,
)
from hopline.daemon.datapath import OBJECT, PIPELINE, Datapath
from hopline.daemon.options import CACHE_SIZE_DEFAULT
from hopline.errors import KernelError, NotFound
from hopline.host.migrate import Moved, may_keep, migrate, steps_in_use
from hopline.kernel import Map, Program, XdpLink, atomic_load32, atomic_store32, atomic_store64, bpffs
from hopline.kernel.link import interface_name
from hopline.kernel.object import ObjectFile


@dataclass
class Upgraded:
    """What an upgrade did, or would do: builds by name, what was carried, and the interfaces that were swapped."""

    instance: str
    before: str
    after: str
    needed: bool = True
    resumed: bool = False
    entries: int = 0
    next_hops: int = 0
    interfaces: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def upgrade(instance: str, dry_run: bool = False) -> Upgraded:
    """Put this build in the place of the one that an instance has in the kernel; no packet is lost.

    A dry run makes all that would be used, so it finds what would be refused, and removes it again. NotFound where
    nothing of the instance is there; Refused while a daemon serves it, in another network namespace than its
    interfaces', and where something it holds has no place in this build.
    """
    directory = bpffs.instance_dir(instance, create=False)
    if not directory.exists():
        raise NotFound(f"upgrade instance {instance}: nothing of it is in the kernel: `hopline serve` starts it")
    asked = f"upgrade instance {instance}"
    lock = take_lock(directory, f"{asked}: a daemon serves it: stop that first, its interfaces forward on meanwhile")
    try:
        return _Upgrade(instance, directory).run(dry_run)
    finally:
        os.close(lock)


class _Upgrade:
    """One upgrade of one instance, whose lock is held."""

    def __init__(self, instance: str, directory: Path) -> None:
        self.instance = instance
        self.directory = directory
        self.ready = directory / READY
        self.making = directory / MAKING
        file = ObjectFile(OBJECT)
        self.own = Identity.of(file)
        opened = file.open()
        self.layout = opened.layout
        self.names = shared_maps(opened)
        self.declared = {declared.name: declared for declared in opened.declared_maps()}
        opened.close()
        file.close()

    def run(self, dry_run: bool) -> Upgraded:
        asked = f"upgrade instance {self.instance}"
        before = pinned_identity(self.directory, self.layout)
        if before is None:
            raise NotFound(f"{asked}: it has no maps in the kernel: `hopline serve` makes them")
        check_namespace(asked, before.netns, self.directory)
        self._tidy()
        begun = pinned_identity(self.ready, self.layout)
        done = Upgraded(self.instance, str(before), str(self.own))
        if begun is None and before.same_build(self.own):
            done.needed = False
            return done
        done.resumed = begun is not None and begun.same_build(self.own)
        undone = [] if begun is None or done.resumed else [f"an upgrade to {begun} that was cut short is undone"]
        if dry_run:
            with self._made(done):
                discard(self.making)
            return done
        self._stop_vouching()
        if not done.resumed:
            with self._made(done) as programs:
                self._declare_ready()
                self._switch(programs, done)
        elif all((self.ready / name).exists() for name in self.names):  # else all were switched and pins renamed
            with self._opened(self.ready, done) as programs:
                self._switch(programs, done)
        self._settle()
        done.remarks += undone
        return done

    def _tidy(self) -> None:
        """Remove what an upgrade that was cut short left and nothing uses."""
        discard(self.making)
        forget_enlarging(self.directory)
        outdated = self.directory / OUTDATED
        if outdated.exists() and not self.ready.exists():
            outdated.rename(self.ready)
        discard(outdated)
        if self.ready.exists() and not (self.ready / IDENTITY).exists():
            discard(self.ready)

    def _maps(self) -> dict[str, Map]:
        """The maps pinned in the instance's directory, of whatever build; links and programs lie there too."""
        maps: dict[str, Map] = {}
        for pin in sorted(self.directory.iterdir()):
            if not pin.is_dir() and not pin.name.startswith("link_"):
                with contextlib.suppress(KernelError):
                    maps[pin.name] = Map.from_pin(pin)
        return maps

    def _stop_vouching(self) -> None:
        """What was learned goes to the kernel from now on, until a daemon of this build vouches for it."""
        pin = self.directory / "state"
        if not pin.exists():
            return
        with Map.from_pin(pin) as held:
            state = held.mmap()
        atomic_store64(state["lease_deadline"][0:1], 0)
        atomic_store32(state["generation"][0:1], atomic_load32(state["generation"][0:1]) % 0xFFFFFFFF + 1)

    # make

    @contextlib.contextmanager
    def _made(self, done: Upgraded) -> Iterator[list[tuple[XdpLink, Program]]]:
        """Make this build's maps and fill them; the programs over them, by the link that is to run each."""
        self.making.mkdir(mode=0o700)
        try:
            maps = self._maps()
            for name, held in maps.items():
                if name in self.names and may_keep(held, self.declared[name]):
                    Map.from_pin(self.directory / name).pin(self.making / name)
            with self._opened(self.making, done, maps) as programs:
                yield programs
        except BaseException:
            discard(self.making)
            raise

    @contextlib.contextmanager
    def _opened(
        self, place: Path, done: Upgraded, old: dict[str, Map] | None = None
    ) -> Iterator[list[tuple[XdpLink, Program]]]:
        datapath = Datapath(self.instance, place, self._cache_size(), self._sizes())
        try:
            if old is not None:
                moved: Moved = migrate(old, datapath)
                done.entries, done.next_hops, done.remarks = moved.entries, moved.next_hops, moved.remarks
            datapath.switch(**steps_in_use(datapath))
            with contextlib.ExitStack() as held:
                yield self._programs(datapath, done, held)
        finally:
            datapath.close()

    def _cache_size(self) -> int:
        """As many entries as the cache has that is there: the daemon has it anew if it is told another size."""
        pin = self.directory / "cache4"
        if not pin.exists():
            return CACHE_SIZE_DEFAULT
        with Map.from_pin(pin) as cache:
            return int(cache.max_entries * self.layout.enum("limit")["CACHE4_WAYS"])

    def _sizes(self) -> dict[str, int]:
        """As many elements as the maps of services have that are there."""
        sizes: dict[str, int] = {}
        for name in SIZED:
            pin = self.directory / name
            if name in self.names and pin.exists():
                with Map.from_pin(pin) as held:
                    sizes[name] = held.max_entries
        return sizes

    def _programs(
        self, datapath: Datapath, done: Upgraded, held: contextlib.ExitStack
    ) -> list[tuple[XdpLink, Program]]:
        slots = {int(row["ifindex"]): slot for slot, row in enumerate(datapath.interfaces) if row["ifindex"]}
        programs: list[tuple[XdpLink, Program]] = []
        for pin in sorted(self.directory.glob("link_*")):
            link = held.enter_context(XdpLink.from_pin(pin))
            if not link.ifindex:
                continue  # its device is gone
            name = interface_name(link.ifindex)
            if link.ifindex not in slots:
                done.remarks.append(f"{name} has no slot: the daemon swaps its program when it starts")
                continue
            # closed at once: an object holds a file for each of its maps, and there may be many interfaces
            with datapath.load_pipeline(slots[link.ifindex], generic=link.mode == "generic") as loaded:
                programs.append((link, held.enter_context(loaded.program(PIPELINE))))
            done.interfaces.append(name)
        return programs

    def _declare_ready(self) -> None:
        """One rename says that the new maps are whole; those of a third build are dropped only then."""
        outdated = self.directory / OUTDATED
        if self.ready.exists():
            self.ready.rename(outdated)
        self.making.rename(self.ready)
        discard(outdated)

    # switch

    def _switch(self, programs: list[tuple[XdpLink, Program]], done: Upgraded) -> None:
        for name, (link, program) in zip(list(done.interfaces), programs, strict=True):
            try:
                link.update(program)
            except KernelError:
                if link.ifindex:
                    raise
                done.interfaces.remove(name)  # its device went away in this moment

    # settle

    def _settle(self) -> None:
        for name in self.names:
            if name != IDENTITY and (self.ready / name).exists():
                (self.ready / name).rename(self.directory / name)
        for name, other in self._maps().items():
            if name not in self.names:
                other.unpin()
        (self.ready / IDENTITY).rename(self.directory / IDENTITY)
        self.ready.rmdir()
