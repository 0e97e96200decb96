"""Interfaces: the slot of each device, where redirects may go, and the pipeline attached by a pinned link."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hopline.config import Interface, Mode
from hopline.daemon.datapath import PIPELINE, Datapath
from hopline.errors import KernelError, Refused
from hopline.features.forward import mac_word
from hopline.kernel import BpfObject, Map, Program, XdpLink, atomic_store32, atomic_store64, query
from hopline.kernel.foreign import identify, replace_foreign
from hopline.kernel.link import detach_pin, pinned_by
from hopline.kernel.netlink.ethtool import header_split
from hopline.kernel.netlink.features import DeviceFeatures, told
from hopline.kernel.netlink.types import Link

log = logging.getLogger("hopline")

LOADS_AT_ONCE = 4  # the verifier takes its time over each
SLOT_REST_S = 2.0  # a slot that was in use is not given away before packets and cached answers have forgotten it


@dataclass
class Attachment:
    """The pipeline on one device."""

    index: int
    slot: int
    link: XdpLink
    object: BpfObject

    @property
    def mode(self) -> str:
        """Native or generic, as the kernel has it."""
        return self.link.mode

    @property
    def program(self) -> Program:
        """The program that packets meet."""
        return self.object.program(PIPELINE)

    def close(self) -> None:
        """Let go of it; the link stays pinned."""
        self.link.close()
        self.object.close()


class Attachments:
    """Slots, egress tables and attached programs of one datapath."""

    def __init__(self, datapath: Datapath, trace: bool = False) -> None:
        self.datapath = datapath
        self.trace = trace
        # changed by the worker thread too: the event loop goes over a copy
        self.by_index: dict[int, Attachment] = {}
        self.flags: Any = datapath.layout.enum("interface_flag")
        self._rests: dict[int, float] = {}
        self._flags_lock = threading.Lock()
        self.slots: dict[int, int] = {
            int(row["ifindex"]): slot for slot, row in enumerate(datapath.interfaces) if row["ifindex"]
        }
        self._forget_strays()

    def _forget_strays(self) -> None:
        # a crash between the two tables leaves one without the other
        index_to_slot = self.datapath.maps["interface_slots"]
        for key, slot in zip(*index_to_slot.items(), strict=True):
            if self.slots.get(int(key)) != int(slot):
                index_to_slot.delete(int(key))

    # slots and egress

    def know(self, link: Link, features: DeviceFeatures) -> bool:
        """Give a device a slot and say what may be redirected to it; called again when anything of it changes.

        Return whether anything was not as it is now.
        """
        slot = self.slots.get(link.index)
        if slot is None:
            slot = self._free_slot()
            if slot is None:
                log.warning("%s: no slot left for another device: nothing is forwarded to it", link.name)
                return False
            self._zero_counters(slot)
            self.slots[link.index] = slot
        changed = self._set_row(slot, link)
        if self.datapath.maps["interface_slots"].get(link.index) != slot:
            self.datapath.maps["interface_slots"].set(link.index, slot)
            changed = True
        changed |= self._set_flag(slot, self.flags.INTERFACE_EGRESS_FRAGS, features.redirect_target_frags)
        whole = link.kind != "" or not header_split(link.name)
        changed |= self._set_flag(slot, self.flags.INTERFACE_ONE_BUFFER, whole)
        for name, able in (("egress_native", features.redirect_target), ("egress_generic", features.generic_target)):
            changed |= self._set_egress(name, slot, link.index if link.up and able else 0)
        return changed

    def _set_row(self, slot: int, link: Link) -> bool:
        row = self.datapath.interfaces[slot : slot + 1]
        mac = mac_word(link.mac, 0)
        if int(row["mac"][0]) == mac and int(row["ifindex"][0]) == link.index:
            return False
        atomic_store64(row["mac"], mac)
        if int(row["ifindex"][0]) != link.index:
            row["flags"] = 0
            atomic_store32(row["ifindex"], link.index)
        return True

    def forget(self, index: int) -> None:
        """A device is gone: its slot rests, then it is another's."""
        slot = self.slots.pop(index, None)
        if slot is None:
            return
        self._set_egress("egress_native", slot, 0)
        self._set_egress("egress_generic", slot, 0)
        self.datapath.maps["interface_slots"].delete(index)
        self.datapath.interfaces[slot : slot + 1]["flags"] = 0
        atomic_store32(self.datapath.interfaces[slot : slot + 1]["ifindex"], 0)
        self._rests[slot] = time.monotonic()
        self.drop(index)

    def has_free_slot(self) -> bool:
        """Return whether another device could be given a slot now."""
        return self._free_slot() is not None

    def _free_slot(self) -> int | None:
        taken, now = set(self.slots.values()), time.monotonic()
        for slot in range(self.datapath.limits.INTERFACE_SLOTS):
            if slot not in taken and now - self._rests.get(slot, 0) > SLOT_REST_S:
                return slot
        return None

    def _zero_counters(self, slot: int) -> None:
        counters = self.datapath.maps["verdict_count"]
        width = self.datapath.limits.VERDICT_SLOTS
        for row in range(slot * width, (slot + 1) * width):
            counters.set(row, np.zeros(counters.ncpu, counters.value_dtype))
        misses = self.datapath.maps["cache_misses"]
        misses.set(slot, np.zeros(misses.ncpu, misses.value_dtype))

    def _set_egress(self, name: str, slot: int, index: int) -> bool:
        if self._egress(name, slot) == index:
            return False
        table: Map = self.datapath.maps[name]
        try:
            if index:
                table.set(slot, index)
            else:
                table.delete(slot)
        except KernelError as error:
            log.info("%s: %s", name, error)  # the device went away in this moment
            return False
        return True

    def _egress(self, name: str, slot: int) -> int:
        # the kernel empties a slot by itself when its device leaves, so what was written last says nothing
        held = self.datapath.maps[name].get(slot)
        return 0 if held is None else int(held)

    def takes_redirects(self, index: int) -> bool:
        """Return whether a redirect to the device arrives, in every mode that an interface runs in."""
        slot = self.slots.get(index)
        modes = {attachment.mode for attachment in list(self.by_index.values())} or {"native"}
        return slot is not None and all(self._egress(f"egress_{mode}", slot) == index for mode in modes)

    # flags

    def set_learning(self, index: int, *, learn4: bool, learn6: bool, bypass: bool) -> bool:
        """Say what a device's packets may use; one store. Return whether it changed."""
        slot = self.slots.get(index)
        if slot is None:
            return False
        flags = self.flags
        wanted = (
            learn4 * flags.INTERFACE_LEARN4 | learn6 * flags.INTERFACE_LEARN6 | bypass * flags.INTERFACE_BYPASS_POLICY
        )
        rights = flags.INTERFACE_LEARN4 | flags.INTERFACE_LEARN6 | flags.INTERFACE_BYPASS_POLICY
        return self._change_flags(slot, int(rights), int(wanted))

    def learning(self, index: int) -> tuple[bool, bool]:
        """Return whether a device learns IPv4 and IPv6."""
        slot = self.slots.get(index)
        flags = 0 if slot is None else int(self.datapath.interfaces[slot]["flags"])
        return bool(flags & self.flags.INTERFACE_LEARN4), bool(flags & self.flags.INTERFACE_LEARN6)

    def _set_flag(self, slot: int, flag: int, on: bool) -> bool:
        return self._change_flags(slot, flag, flag if on else 0)

    def _change_flags(self, slot: int, which: int, wanted: int) -> bool:
        # the worker attaches while the event loop forbids learning: neither may write back what the other changed
        row = self.datapath.interfaces[slot : slot + 1]
        with self._flags_lock:
            old = int(row["flags"][0])
            new = old & ~which | wanted
            if new != old:
                atomic_store32(row["flags"], new)
        return new != old

    # programs

    def pin(self, index: int) -> str:
        """Return the path of a device's pinned link; by index, since bpffs takes no dots and device names have them."""
        return str(self.datapath.directory / f"link_{index}")

    def attach(self, interface: Interface, link: Link, *, replace: bool) -> Attachment:
        """Attach the pipeline, or adopt the link that is pinned; its program is swapped only where settings changed."""
        if (held := self.by_index.get(link.index)) is not None:
            if held.link.ifindex and held.mode in modes_of(interface):
                return held
            self.detach(link.index)
        slot = self.slots.get(link.index)
        if slot is None:
            slots = self.datapath.limits.INTERFACE_SLOTS
            raise Refused(f"attach xdp pipeline to {interface.name}: all {slots} device slots are in use")
        pinned = self._adopt(interface, link)
        if pinned is not None:
            return pinned
        failure: KernelError | None = None
        for mode in modes_of(interface):
            loaded = self.datapath.load_pipeline(slot, generic=mode == "generic", trace=self.trace)
            try:
                xdp = self._attach(interface.name, loaded.program(PIPELINE), link.index, mode, replace)
                xdp.pin(self.pin(link.index))
            except KernelError as error:
                loaded.close()
                failure = error
                continue
            except BaseException:
                loaded.close()
                raise
            return self._keep(Attachment(link.index, slot, xdp, loaded))
        assert failure is not None
        raise failure

    def _attach(self, name: str, program: Program, index: int, mode: Mode, replace: bool) -> XdpLink:
        other = identify(index, self.datapath.directory)
        if other is None:
            return XdpLink.attach(program, index, mode)
        if replace:
            return replace_foreign(index, program, mode, self.datapath.directory)
        instance = pinned_by(self.datapath.directory.parent, other.program_id)
        if instance is not None:
            raise Refused(
                f"attach xdp pipeline to {name}: instance {instance} serves it (program id {other.program_id}): "
                f"`hopline interface del {name} --instance {instance}` first, or use --replace"
            )
        raise Refused(
            f"attach xdp pipeline to {name}: another program ({other.known_as}) is attached: unload it or use --replace"
        )

    def _adopt(self, interface: Interface, link: Link) -> Attachment | None:
        path = self.datapath.directory / f"link_{link.index}"
        if not path.exists():
            return None
        xdp = XdpLink.from_pin(path)
        if xdp.ifindex != link.index or xdp.mode not in modes_of(interface):
            xdp.close()
            detach_pin(path)
            return None
        slot = self.slots[link.index]
        loaded = self.datapath.load_pipeline(slot, generic=xdp.mode == "generic", trace=self.trace)
        if not self._same_program(loaded, xdp.program_id):
            xdp.update(loaded.program(PIPELINE))
        return self._keep(Attachment(link.index, slot, xdp, loaded))

    def _same_program(self, loaded: BpfObject, attached_id: int) -> bool:
        """Return whether the attached program is this very one, so that a restart need not touch the link."""
        try:
            with Program.from_id(attached_id) as attached, loaded.program(PIPELINE) as ours:
                same = attached.tag == ours.tag and self._settings(attached) == self._settings(ours)
        except KernelError as error:
            log.info("the attached program cannot be compared, so it is replaced in place: %s", error)
            same = False
        return same and not self.trace

    def _settings(self, program: Program) -> tuple[frozenset[int], bytes]:
        """Return the ids of a program's shared maps, and the octets of its .rodata."""
        shared = {m.id for m in self.datapath.maps.values()}
        rodata = b""
        ids = set(program.info().map_ids)
        for id in ids - shared:
            other = Map.from_id(id)
            if "rodata" in other.name:
                value = other.get(0)
                rodata = value.tobytes() if value is not None else b""
            other.close()
        return frozenset(ids & shared), rodata

    def reload(self) -> None:
        """Load every pipeline anew, with the settings and maps of now, and swap it in; all of them or none."""
        attached = list(self.by_index.values())
        with ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="hopline-load") as pool:
            loading = [pool.submit(self._loaded, attachment) for attachment in attached]
        swapped: list[tuple[Attachment, BpfObject]] = []
        try:
            for attachment, loaded in zip(attached, [each.result() for each in loading], strict=True):
                swapped.append((attachment, loaded))
                self._update(attachment, loaded)
        except BaseException:
            for attachment, _ in swapped:
                self._update(attachment, attachment.object)
            for each in loading:
                if each.exception() is None:
                    each.result().close()
            raise
        for attachment, loaded in swapped:
            attachment.object, old = loaded, attachment.object
            old.close()

    def _loaded(self, attachment: Attachment) -> BpfObject:
        return self.datapath.load_pipeline(attachment.slot, generic=attachment.mode == "generic", trace=self.trace)

    @staticmethod
    def _update(attachment: Attachment, loaded: BpfObject) -> None:
        try:
            with loaded.program(PIPELINE) as program:
                attachment.link.update(program)
        except KernelError:
            if attachment.link.ifindex:
                raise  # else its device went away in this moment, or somebody detached it

    def _keep(self, attachment: Attachment) -> Attachment:
        self.by_index[attachment.index] = attachment
        return attachment

    def detach(self, index: int) -> None:
        """Detach from a device; its packets are the kernel's from now on."""
        attachment = self.by_index.pop(index, None)  # the event loop and the worker may both want it off
        if attachment is None:
            return
        try:
            attachment.link.detach()
        except KernelError:
            self.by_index[index] = attachment  # to be tried again
            raise
        attachment.link.unpin()
        attachment.close()

    def missing(self, index: int) -> bool:
        """Return whether the pipeline could be on a device and is not: its link is detached, or nothing is there."""
        attachment = self.by_index.get(index)
        return query(index) is None if attachment is None else not attachment.link.ifindex

    def drop(self, index: int) -> None:
        """Let go of a link that the kernel has already taken off its device."""
        attachment = self.by_index.pop(index, None)
        if attachment is not None:
            attachment.link.unpin()
            attachment.close()

    def detach_unwanted(self, wanted: set[int]) -> None:
        """Detach what is pinned for devices that the intent does not name, and forget links whose device is gone."""
        for path in list(self.datapath.directory.glob("link_*")):
            if int(path.name.removeprefix("link_")) not in wanted:
                detach_pin(path)


def modes_of(interface: Interface) -> tuple[Mode, ...]:
    """Return the modes an interface may run in, the best first."""
    if interface.mode != "auto":
        return (interface.mode,)
    # a driver that takes no redirect drops what native mode sends it, uncounted: where the kernel cannot say which do,
    # only the operator may choose native
    return ("native", "generic") if told() else ("generic",)
