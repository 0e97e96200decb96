"""Capabilities of this process (capabilities(7)): what each thread has, and giving up for good what is not needed.

The kernel has them per thread, and libraries start threads of their own (NumPy's OpenBLAS does when it is imported), so
a thread that gives rights up leaves them to the others: each is made to do it by a signal, as libcap's libpsx does.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from hopline.errors import KernelError
from hopline.kernel._libbpf import lib
from hopline.kernel.handle import check

# include/uapi/linux/capability.h
SETPCAP, NET_ADMIN, SYS_ADMIN, PERFMON, BPF = 8, 12, 21, 38, 39
NAMES = {SETPCAP: "CAP_SETPCAP", NET_ADMIN: "CAP_NET_ADMIN", SYS_ADMIN: "CAP_SYS_ADMIN", PERFMON: "CAP_PERFMON",
         BPF: "CAP_BPF"}  # fmt: skip

TASKS = Path("/proc/self/task")
LAST = Path("/proc/sys/kernel/cap_last_cap")
PATIENCE_S = 2.0
POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Rights:
    """The sets of one thread, bit N for capability N."""

    effective: int
    permitted: int
    inheritable: int
    bounding: int
    ambient: int
    no_new_privileges: bool

    def has(self, *capabilities: int) -> bool:
        """Whether all of these are in effect."""
        return not mask(*capabilities) & ~self.effective


@dataclass(frozen=True, slots=True)
class Kept:
    """What the process can still do: names of capabilities, and a sentence for each thing it could not give up."""

    names: tuple[str, ...]
    remarks: tuple[str, ...]


def mask(*capabilities: int) -> int:
    """The set that holds these."""
    return sum(1 << number for number in set(capabilities))


def rights(thread: int | None = None) -> Rights:
    """What a thread of this process (its id; None: the calling one) may do; KernelError ESRCH if it has ended."""
    place = Path("/proc/thread-self") if thread is None else TASKS / str(thread)
    try:
        lines = (place / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise KernelError(f"read rights in {place}", error.errno or 0) from error
    found = dict(line.split(":", 1) for line in lines if line.startswith(("Cap", "NoNewPrivs")))
    effective, permitted, inheritable, bounding, ambient = (
        int(found[f"Cap{name}"], 16) for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")
    )
    return Rights(effective, permitted, inheritable, bounding, ambient, int(found["NoNewPrivs"]) == 1)


def needed(held: Rights) -> tuple[int, str]:
    """The set that a daemon needs to go on, and, where that is CAP_SYS_ADMIN in place of CAP_BPF, why ("" if not)."""
    if held.has(BPF, PERFMON):
        return mask(NET_ADMIN, PERFMON, BPF), ""
    old = int(LAST.read_text()) < BPF  # before Linux 5.8
    why = f"Linux {os.uname().release} has no CAP_BPF" if old else "CAP_BPF and CAP_PERFMON were not given"
    return mask(NET_ADMIN, SYS_ADMIN), f"CAP_SYS_ADMIN is kept: {why}"


def give_up() -> Kept:
    """Keep in every thread what `needed` says and nothing else, for good; programs started later have no right at all.

    KernelError where the calling thread cannot; what another thread or the bounding set keeps is a remark.
    """
    held = rights()
    wanted, remark = needed(held)
    remarks = [remark] if remark else []
    wanted &= held.permitted
    check(lib.hl_keep_capabilities(wanted), "give up capabilities")
    bounded = bool(held.bounding) and not held.has(SETPCAP)
    if bounded:
        remarks.append("the bounding set stays: CAP_SETPCAP, which emptying it takes, was not given")
    astray = _everywhere(wanted, held.bounding if bounded else 0)
    if astray:
        named = ", ".join(f"{number} ({_title(number)})" for number in astray)
        remarks.append(f"threads keep rights that they should not have: {named}: restart, and report it")
    return Kept(tuple(name for number, name in NAMES.items() if wanted >> number & 1), tuple(remarks))


def _everywhere(wanted: int, bounding: int) -> list[int]:
    """Have every thread keep only `wanted`; the ids of those that did not in time."""
    least = Rights(wanted, wanted, 0, bounding, 0, True)
    deadline, clean = time.monotonic() + PATIENCE_S, 0
    while True:
        astray = [number for number in map(int, os.listdir(TASKS)) if not _is(number, least)]
        # a thread not listed yet may have been started by one that was about to give up its rights
        clean = 0 if astray else clean + 1
        if clean == 2 or time.monotonic() > deadline:
            return astray
        for number in astray:
            lib.hl_keep_capabilities_of(number, wanted)  # fails only where the thread has ended
        time.sleep(POLL_S)


def _is(thread: int, least: Rights) -> bool:
    try:
        return rights(thread) == least
    except KernelError:
        return True  # it has ended


def _title(thread: int) -> str:
    try:
        return (TASKS / str(thread) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "ended"
