"""All that is known about one run, for those who say it in words."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hopline.config import Decap, NextHop, Service
from hopline.daemon.explain.served import SeenBackend
from hopline.daemon.learned import next_hop_text
from hopline.kernel.netlink.lookup import MatchedRoute, SeenNeighbour
from hopline.kernel.netlink.types import Link
from hopline.kernel.record import Layout


class Host(Protocol):
    """What is asked of the host beside the run: by netlink, or of what the daemon follows."""

    def link(self, index: int) -> Link | None:
        """Return a device."""
        ...

    def forbids(self, index: int, family: int) -> list[str]:
        """Return what keeps a device from learning."""
        ...

    def entry(self, address: str) -> tuple[str, NextHop] | None:
        """Return the operator's entry that covers an address."""
        ...

    def route(self, address: str, source: str, iif: int) -> MatchedRoute | str:
        """Return the kernel's own route for a packet, or why it has none."""
        ...

    def neighbour(self, index: int, address: str) -> SeenNeighbour | None:
        """Return what the kernel knows of a neighbour."""
        ...

    def service(self, row: int) -> Service | None:
        """Return the service in a row of the kernel's."""
        ...

    def backend(self, row: int, number: int) -> SeenBackend | None:
        """Return the backend that has a number in a service's row."""
        ...

    def decap(self, row: int) -> Decap | None:
        """Return the entry of decap whose counter is in a row."""
        ...

    def decaps(self, local: str, encap: str) -> list[Decap]:
        """Return the entries of decap for a local address."""
        ...


@dataclass(frozen=True)
class Ingress:
    """The interface that the packet is said to come in by, and why that one, where nobody named it."""

    index: int
    slot: int
    name: str
    mode: str
    mac: bytes
    chosen: str = ""


@dataclass(frozen=True)
class Scene:
    """One run: the frame before and after it, and the record that the program made of it."""

    ingress: Ingress
    frame: bytes
    left: bytes  # what is left of it in the program's hands
    captured: int  # octets of the frame that are known; zeros stand for the rest
    event: np.void  # struct trace_event
    layout: Layout
    learned_base: int
    host: Host

    def enum(self, name: str) -> Any:
        """Return an enum of the program's."""
        return self.layout.enum(name)

    @property
    def verdict(self) -> str:
        """The name in enum verdict."""
        return str(self.enum("verdict")(int(self.event["verdict"])).name)

    @property
    def claimed(self) -> bool:
        """Whether decap or balance had the last word, so that forward was not asked."""
        return self.verdict in ("BALANCED", "DECAPSULATED") or self.verdict.startswith(("ANSWERED", "DROP"))

    @property
    def sent(self) -> bool:
        """Whether XDP sends it out of a device: on its way, or back."""
        return self.verdict in ("FORWARDED", "BALANCED") or self.verdict.startswith("ANSWERED")

    @property
    def out_index(self) -> int:
        """The device that it leaves by, 0 where it does not leave."""
        if self.verdict == "FORWARDED":
            return int(self.note["ifindex"])
        if self.verdict == "BALANCED":
            return int(self.event["balance"]["ifindex"])
        return self.ingress.index if self.verdict.startswith("ANSWERED") else 0

    @property
    def packet(self) -> np.void:
        """What parse found."""
        return self.event["packet"]

    @property
    def note(self) -> np.void:
        """What forward noted."""
        return self.event["forward"]

    @property
    def family(self) -> int:
        """4 or 6, 0 where it is not IP."""
        return int(self.packet["family"])

    @property
    def source(self) -> str:
        """The sender's address."""
        return self.address(self.packet["source"])

    @property
    def destination(self) -> str:
        """The address it is for."""
        return self.address(self.packet["destination"])

    def address(self, field: Any, family: int | None = None) -> str:
        """Return the address in an ip6_t, of the packet's family unless told."""
        return next_hop_text(self.family if family is None else family, field.tobytes())

    def device(self, index: int) -> str:
        """Return a device's name."""
        link = self.host.link(index)
        return link.name if link else f"device {index}"

    def asked(self, *lookups: str) -> bool:
        """Whether the program asked all of these: CACHE, LOCAL, EXACT, PREFIX, FIB."""
        members = self.enum("lookup")
        return all(int(self.note["lookups"]) & members[f"LOOKUP_{name}"] for name in lookups)

    @property
    def found(self) -> str:
        """Which look-up answered: CACHE, LOCAL, EXACT, PREFIX, FIB or NONE."""
        return str(self.enum("lookup")(int(self.note["found"])).name.removeprefix("LOOKUP_"))

    @property
    def hit(self) -> bool:
        """Whether the cache had the destination: then none of the tables behind it was asked."""
        return self.asked("CACHE") and not self.asked("LOCAL")

    @property
    def adjacency(self) -> int:
        """The id of the adjacency, 0 where there is none: neither an operator's nor one that was learned before."""
        id = int(self.note["adjacency"])
        return id if id >= self.enum("adjacency_id").ADJACENCY_ID_FIRST else 0

    @property
    def learned(self) -> bool:
        """Whether the FIB's answer, of now or of before, was used."""
        return self.adjacency >= self.learned_base or (not self.adjacency and self.asked("FIB"))

    @property
    def via(self) -> str | None:
        """The next hop's address, None for one that was given by its MAC, and where there is none."""
        family = int(self.note["family"])
        return self.address(self.note["next_hop"], family) if family else None

    @property
    def entry(self) -> tuple[str, NextHop] | None:
        """The operator's entry that answered."""
        operator = self.adjacency and not self.learned
        return self.host.entry(self.destination) if operator else None
