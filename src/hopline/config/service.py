"""The noun `service`: an address and its ports, whose flows backends share. Pure."""

from bisect import bisect_left
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from itertools import chain
from typing import Any, Literal, get_args

import msgspec

from hopline.config.backend import Backend, checked_backend, fitting
from hopline.config.checks import FieldChecks, Together, one_of, refuse, seconds, whole
from hopline.config.health import canonical_check, parsed_check
from hopline.config.numbers import canonical_ports, canonical_statuses, port_range, ring_size
from hopline.errors import InvalidInput, Problems
from hopline.spelling import canonical_host, canonical_source, device_name, network_of, service_name

Protocol = Literal["tcp", "udp", "both"]
Encap = Literal["ipip", "gue"]
Affinity = Literal["ring", "table"]
Own = Literal["routed", "on-wire"]
CheckVia = Literal["backend", "vip"]
AllDown = Literal["keep", "refuse"]
IcmpEcho = Literal["answer", "pass"]

RING_SLOTS = 65537
GUE_PORT = 6080
IDLE_S = 900  # as IPVS keeps a TCP connection that says nothing
SERVICES_MOST = 4095  # rows of the kernel's table, the first of which is none
BACKENDS_MOST = 4095  # numbers of backends have 12 bits, and one is kept for a successor
SEED_MOST = (1 << 63) - 1  # TOML and SQLite have integers of 64 bits with a sign
IDLE_MOST = 7 * 86_400  # seconds


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What comes in for `vip` and `port` goes to one of `backend`, in an outer header; a flow stays where it is."""

    name: str
    vip: str
    port: str | int  # checked: "80", "80-81" or "any"
    protocol: Protocol
    encap: Encap = "ipip"
    gue_port: int = GUE_PORT
    local: str | None = (
        None  # outer source, or a prefix that it varies in; None: the address of the device it leaves by
    )
    ring: int = RING_SLOTS  # slots, a prime
    seed: int = 0  # of the flow's hash: nodes with one document choose alike
    affinity: Affinity = "ring"
    idle: int = IDLE_S  # T, seconds: how long a silent flow is remembered
    own: Own = "routed"
    own_dev: str | None = None  # on-wire: the device that has the VIP; None: the one whose network it is in
    check: str = "none"
    check_via: CheckVia = "backend"
    interval: float = 2.0  # seconds
    rise: int = 2
    fall: int = 3
    expect: str = "200-399"  # statuses of HTTP
    all_down: AllDown = "keep"
    icmp_echo: IcmpEcho = "answer"
    quic: bool = False
    backend: tuple[Backend, ...] = ()

    @property
    def ports(self) -> tuple[int, int]:
        """The first port and the last; 0 and 65535 where it has all."""
        return port_range(str(self.port))

    @property
    def protocols(self) -> tuple[str, ...]:
        """tcp, udp, or both of them."""
        return ("tcp", "udp") if self.protocol == "both" else (self.protocol,)

    @property
    def says(self) -> str:
        """What it takes, in a few words."""
        return f"{self.vip} port {self.port} {self.protocol}"


SERVICE_FIELDS: FieldChecks = {
    "name": service_name,
    "vip": canonical_host,
    "port": canonical_ports,
    "protocol": one_of(*get_args(Protocol)),
    "encap": one_of(*get_args(Encap)),
    "gue_port": whole(1, 65535),
    "local": canonical_source,
    "ring": ring_size,
    "seed": whole(0, SEED_MOST),
    "affinity": one_of(*get_args(Affinity)),
    "idle": whole(1, IDLE_MOST),
    "own": one_of(*get_args(Own)),
    "own_dev": device_name,
    "check": canonical_check,
    "check_via": one_of(*get_args(CheckVia)),
    "interval": seconds(0.1, 3600),
    "rise": whole(1, 100),
    "fall": whole(1, 100),
    "expect": canonical_statuses,
    "all_down": one_of(*get_args(AllDown)),
    "icmp_echo": one_of(*get_args(IcmpEcho)),
}


def checked_service(service: Service, where: str = "") -> Service:
    """Return the service in canonical spelling; InvalidInput or InvalidInputs name what is wrong, after `where`."""
    problems = Problems()
    spelled: dict[str, Any] = {}
    wrong: set[str] = set()
    for name, check in SERVICE_FIELDS.items():
        value = getattr(service, name)
        try:
            if value is not None and (right := check(value, name)) != value:
                spelled[name] = right
        except InvalidInput as error:
            problems.add(error)
            wrong.add(name)
    right = msgspec.structs.replace(service, **spelled) if spelled else service
    _check_shape(right, wrong, problems)
    backends = _checked_backends(right, wrong, problems)
    if problems.count:
        refuse(problems, where)
    return right if backends == right.backend else msgspec.structs.replace(right, backend=backends)


def _check_shape(service: Service, wrong: Collection[str], problems: Problems) -> None:
    """Note the fields that do not go together; those in `wrong` have been refused already."""
    if service.encap == "ipip" and service.gue_port != GUE_PORT and "gue_port" not in wrong:
        problems.add(
            InvalidInput("gue_port", "given with encap ipip, which has no port", "give encap gue, or leave it out")
        )
    if service.own == "routed" and service.own_dev is not None:
        problems.add(InvalidInput("own_dev", "given with own routed", "give own on-wire, or leave it out"))
    if service.quic:
        problems.add(InvalidInput("quic", "connection ids are not offered yet", "leave it out, or give affinity table"))
    if not {"port", "check"} & set(wrong):
        kind = parsed_check(service.check)
        if kind.kind in ("tcp", "udp") and kind.port_of(service.ports[0]) is None:
            hint = f"say which port is asked, as {kind.kind}://:8080"
            problems.add(InvalidInput("check", "the service has all ports", hint))
    if service.local is not None and not {"local", "vip"} & set(wrong):
        network = network_of(service.local)
        if ip_address(service.vip) in network:
            what = f"{service.local} {'holds' if '/' in service.local else 'is'} the VIP"
            why = f"{what}, and a server drops what its own address sent"
            problems.add(InvalidInput("local", why, "give an address of this node"))
    if service.ring < len(service.backend) and "ring" not in wrong:
        there = f"{service.ring} slots are fewer than its {len(service.backend)} backends"
        problems.add(InvalidInput("ring", there, f"give a prime of 100 times as many: {RING_SLOTS} is the default"))


def _checked_backends(service: Service, wrong: Collection[str], problems: Problems) -> tuple[Backend, ...]:
    if len(service.backend) > BACKENDS_MOST:
        problems.add(InvalidInput("backend", f"{len(service.backend):,} backends", f"give at most {BACKENDS_MOST:,}"))
        return service.backend
    fits = fitting(None if "vip" in wrong else service.vip, None if "local" in wrong else service.local)
    right: list[Backend] = []
    places: dict[str, int] = {}
    for place, backend in enumerate(service.backend):
        try:
            one = checked_backend(backend)
            fits(one)
            first = places.setdefault(one.address, place)
            if first != place:
                raise InvalidInput("address", f"{one.address} is also backend[{first}]", "give each backend once")
        except InvalidInput as error:
            problems.add(error.within(f"backend[{place}]."))
            continue
        right.append(one)
    return tuple(right)


def services_together(services: Mapping[str, Service], new: Collection[str]) -> Together:
    """Yield what is wrong with each of the services `new` beside all that there are: ports that two want, too many."""
    if len(services) > SERVICES_MOST:
        name = next(iter(new), next(iter(services)))
        yield name, InvalidInput("name", f"{len(services):,} services", f"there is room for {SERVICES_MOST:,}")
        return
    taken: dict[tuple[str, str], list[tuple[int, int, Service]]] = {}  # ports by VIP and protocol, in order
    known = (service for name, service in services.items() if name not in new)
    for service in chain(known, (services[name] for name in new)):
        twin = _take(service, taken)
        if twin is not None and service.name in new:
            both = f"{service.name} ({service.port} {service.protocol}) and {twin.name} ({twin.port} {twin.protocol})"
            hint = f"give each port of {service.vip} to one of them"
            yield service.name, InvalidInput("port", f"{both} overlap on {service.vip}", hint)


def _take(service: Service, taken: dict[tuple[str, str], list[tuple[int, int, Service]]]) -> Service | None:
    """Enter a service's ports; return another that has one of them."""
    first, last = service.ports
    twin = None
    for protocol in service.protocols:
        others = taken.setdefault((service.vip, protocol), [])
        # none of them overlap, so that their ends are in order too
        place = bisect_left(others, first, key=lambda other: other[1])
        if place < len(others) and others[place][0] <= last:
            twin = twin or others[place][2]
        else:
            others.insert(place, (first, last, service))
    return twin
