"""Which hooks the running kernel has, and what a program at each may do: asked of its verifier, not of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from hopline.kernel import program
from hopline.kernel.helpers import helpers_of, touches_packet

HOOKS = {
    "xdp": program.XDP,
    "lwt_in": program.LWT_IN,
    "lwt_out": program.LWT_OUT,
    "lwt_xmit": program.LWT_XMIT,
    "lwt_seg6local": program.LWT_SEG6LOCAL,
}
# an ability is there where one of these helpers is
ABILITIES = {
    "push": ("xdp_adjust_head", "lwt_push_encap", "lwt_seg6_action"),
    "resize": ("xdp_adjust_tail", "skb_change_tail", "lwt_seg6_adjust_srh"),
    "redirect": ("redirect", "redirect_map", "clone_redirect"),
    "fib": ("fib_lookup",),
}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What helpers and the verifier let a hook do with a packet; every hook may drop it.

    `read` and `write` octets of it, `push` an outer header, `resize` it at its end or within, `redirect` it to another
    device, and ask the `fib` where it goes.
    """

    read: bool
    write: bool
    push: bool
    resize: bool
    redirect: bool
    fib: bool


@dataclass(frozen=True, slots=True)
class Hook:
    """One hook; of one that this kernel has not, `helpers` is empty."""

    hook: str
    abilities: Abilities
    helpers: tuple[str, ...]


def hooks() -> list[Hook]:
    """All hooks; KernelError without the right to load programs."""
    return [_hook(name, program_type) for name, program_type in HOOKS.items()]


def _hook(name: str, program_type: int) -> Hook:
    helpers = helpers_of(program_type)

    def touches(write: bool) -> bool:
        return bool(helpers) and touches_packet(program_type, write=write)

    found = {ability: any(helper in helpers for helper in by) for ability, by in ABILITIES.items()}
    return Hook(name, Abilities(touches(False), touches(True), **found), helpers)


def shared(found: Sequence[Hook]) -> list[str]:
    """The helpers that every hook which the kernel has may call."""
    sets = [set(hook.helpers) for hook in found if hook.helpers]
    return sorted(set.intersection(*sets)) if sets else []
