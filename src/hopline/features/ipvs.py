"""The table of IPVS, as rules of ipvsadm say it, as services: what can be expressed, and what cannot and why. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice

from hopline.config import Backend, Service, checked_service
from hopline.config.backend import WEIGHT_MOST
from hopline.config.service import GUE_PORT, IDLE_MOST, IDLE_S
from hopline.errors import InvalidInput
from hopline.features.ipvsadm import Unfit, commands, options

_VERBS = ("add-service", "edit-service", "delete-service", "clear", "add-server", "edit-server", "delete-server")
_NO_RULES = ("list", "zero", "restore", "save", "help", "version", "stop-daemon")
_SERVICE_OPTIONS = {"tcp-service": "tcp", "udp-service": "udp"}
_METHODS = {"masquerading": "NAT (-m)", "gatewaying": "direct routing (-g)", "ipip": "ipip (-i)"}
_LIMITS = (("x", "u-threshold"), ("y", "l-threshold"))
_UNWEIGHTED = ("rr", "lc", "dh")  # schedulers to which a weight above 0 is as good as another
_PERSISTENT_S = 360  # IPVS_SVC_PERSISTENT_TIMEOUT
_HOST_MASKS = ("255.255.255.255", "128")

Key = tuple[str, str, int]  # protocol, VIP, port


@dataclass(frozen=True, slots=True)
class Said:
    """What is to be told of lines (from 1) of the rules; `left_out` where that is all that becomes of them."""

    lines: tuple[int, ...]
    text: str
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """The services that the rules say; `lost`: what cannot be expressed, `notes`: what is done otherwise."""

    services: tuple[Service, ...]
    lost: tuple[Said, ...]
    notes: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is told of a line if its service is entered; `lost`: a part of it cannot be expressed."""

    line: int
    text: str
    lost: bool = True


@dataclass(slots=True)
class _Server:
    line: int
    address: str
    weight: int
    gue_port: int | None  # None: no port, for it is ipip
    told: list[_Told]


@dataclass(slots=True)
class _Virtual:
    """A virtual service as far as it is known; `unknown` says why Hopline has no service of its kind."""

    line: int
    key: Key
    scheduler: str = "wlc"
    persistent: int | None = None
    unknown: str = ""
    told: list[_Told] = field(default_factory=list)
    servers: dict[str, _Server] = field(default_factory=dict)
    lost_servers: list[int] = field(default_factory=list)


class _Rules:
    """The table as the lines make it, one after another."""

    def __init__(self) -> None:
        self.virtuals: dict[Key | str, _Virtual] = {}
        self.lost: list[Said] = []
        self.notes: dict[str, list[int]] = {}

    def note(self, line: int, text: str) -> None:
        self.notes.setdefault(text, []).append(line)

    def take(self, line: int, given: dict[str, str]) -> None:
        """Do what one line says; Unfit where that is not possible."""
        verbs = [name for name in _VERBS if name in given]
        if not verbs:
            self._no_rule(line, given)
        elif len(verbs) > 1:
            raise Unfit(f"--{verbs[0]} and --{verbs[1]} at once")
        elif verbs[0] == "clear":
            self.virtuals.clear()
        else:
            name, key = _service_of(given)
            act = {"add": self._add, "edit": self._edit, "delete": self._delete}[verbs[0].partition("-")[0]]
            server = verbs[0].endswith("server")
            if server and "real-server" not in given:
                raise Unfit(f"--{verbs[0]} without a real server (-r)")
            act(line, name, key, given, server)

    def _no_rule(self, line: int, given: dict[str, str]) -> None:
        if "set" in given:
            self.note(line, "time-outs are each service's own here: --idle, 900 s unless told")
        elif "start-daemon" in given:
            self.note(line, "connections need no synchronising: nodes with one document agree on every flow")
        elif not any(name in given for name in _NO_RULES):
            raise Unfit("no command of ipvsadm in it (-A, -a, …)")

    def _add(self, line: int, name: str, key: Key | None, given: dict[str, str], server: bool) -> None:
        known = self.virtuals.get(key or name)
        if server:
            self._serve(line, name, known, given)
        elif known is not None:
            raise Unfit(f"{name} is there already, by line {known.line}")
        elif key is None:
            # kept, so that its servers are known to be of it
            self.virtuals[name] = _Virtual(line, ("", name, 0), unknown=_unknown_kind(name))
        else:
            self.virtuals[key] = virtual = _Virtual(line, key)
            self._settings(line, virtual, given)

    def _edit(self, line: int, name: str, key: Key | None, given: dict[str, str], server: bool) -> None:
        virtual = self._known(name, key)
        if not server:
            self._settings(line, virtual, given)
            return
        virtual.servers.pop(_real_server(given, virtual)[0], None)
        self._serve(line, name, virtual, given)

    def _delete(self, line: int, name: str, key: Key | None, given: dict[str, str], server: bool) -> None:
        virtual = self._known(name, key)
        if not server:
            del self.virtuals[key or name]
        elif virtual.servers.pop(_real_server(given, virtual)[0], None) is None and not virtual.lost_servers:
            raise Unfit(f"{given['real-server']} is no server of {name}")

    def _known(self, name: str, key: Key | None) -> _Virtual:
        known = self.virtuals.get(key or name)
        if known is None:
            raise Unfit(f"no line before it adds {name}")
        return known

    def _settings(self, line: int, virtual: _Virtual, given: dict[str, str]) -> None:
        """Take a virtual service's scheduler and persistence."""
        virtual.line, virtual.scheduler = line, given.get("scheduler", "wlc")
        virtual.persistent = None
        if "persistent" in given:
            virtual.persistent = _number(given["persistent"] or str(_PERSISTENT_S), 1, 31 * 86_400, "-p")
        virtual.told = [_Told(line, f"{text}: entered without it") for text in _lost_settings(virtual, given)]
        if "ops" in given:
            virtual.told.append(_Told(line, "one-packet scheduling (-o): packets of one flow stay together", False))

    def _serve(self, line: int, name: str, virtual: _Virtual | None, given: dict[str, str]) -> None:
        """Enter a real server."""
        if virtual is None:
            raise Unfit(f"no line before it adds {name}")
        if virtual.unknown:
            virtual.lost_servers.append(line)
            return
        try:
            server = _server(line, virtual, given)
        except Unfit:
            virtual.lost_servers.append(line)
            raise
        virtual.servers[server.address] = server

    def services(self) -> Iterator[Service]:
        """Yield what can be expressed; keep what is told of it, and of what cannot."""
        for virtual in self.virtuals.values():
            why = virtual.unknown or self._why_not(virtual)
            if not why:
                try:
                    service = checked_service(_service(virtual))
                except InvalidInput as error:
                    why = str(error)
            if why:
                self._leave_out(virtual, why)
                continue
            self._tell(virtual)
            yield service

    def _leave_out(self, virtual: _Virtual, why: str) -> None:
        lines = sorted([*virtual.lost_servers, *(server.line for server in virtual.servers.values())])
        with_it = f", and its servers with it (line{'s' if len(lines) > 1 else ''} {_listed(lines)})"
        self.lost.append(Said((virtual.line, *lines), f"{why}: left out{with_it if lines else ''}", True))

    def _tell(self, virtual: _Virtual) -> None:
        """Keep what is told of a service that is entered."""
        servers = list(virtual.servers.values())
        told = [*virtual.told, *(told for server in servers for told in server.told)]
        self.lost += [Said((one.line,), one.text) for one in told if one.lost]
        for one in told:
            if not one.lost:
                self.note(one.line, one.text)
        self.note(virtual.line, _scheduled(virtual.scheduler))
        for server in servers:
            if virtual.scheduler in _UNWEIGHTED and server.weight > 1:
                text = f"{virtual.scheduler} takes no account of weights above 0: entered with weight 1"
                self.note(server.line, text)
        if not virtual.key[2]:
            says = "a client keeps its backend until it is silent for as long"
            idle = _idle(virtual)
            self.note(virtual.line, f"-p {virtual.persistent} on all ports: {says}: affinity table, idle {idle}")

    def _why_not(self, virtual: _Virtual) -> str:
        """Return why a service as a whole cannot be expressed; "" if it can."""
        protocol, vip, port = virtual.key
        if not port and virtual.persistent is None:
            return "port 0 without -p, which ipvsadm refuses too"
        if not virtual.servers and virtual.lost_servers:
            return "no server of it can be expressed"
        same = (other for other in self.virtuals.values() if other.key[:2] == (protocol, vip) and other is not virtual)
        other = None if port else next(same, None)
        if other is not None:
            return f"all ports of {vip}, of which line {other.line} has one: ports of services do not overlap"
        return ""


def services_of(text: str) -> Imported:
    """Return what rules say, whatever of it can be expressed; nothing is raised for what cannot."""
    rules = _Rules()
    for line, words in commands(text):
        try:
            rules.take(line, options(words))
        except Unfit as error:
            rules.lost.append(Said((line,), f"{error}: left out", True))
    services = tuple(rules.services())
    lost = tuple(sorted(rules.lost, key=lambda said: said.lines))
    return Imported(services, lost, tuple(Said(tuple(lines), text) for text, lines in rules.notes.items()))


def _service_of(given: dict[str, str]) -> tuple[str, Key | None]:
    """Return how the rules name a service, and its key; None for a kind that Hopline has not."""
    named = [name for name in ("tcp-service", "udp-service", "sctp-service", "fwmark-service") if name in given]
    if len(named) != 1:
        raise Unfit("two services at once" if named else "no service in it (-t or -u)")
    value = given[named[0]]
    if named[0] not in _SERVICE_OPTIONS:
        return f"{'--sctp-service' if named[0] == 'sctp-service' else '-f'} {value}", None
    address, port = _address_port(value)
    protocol = _SERVICE_OPTIONS[named[0]]
    return f"-{protocol[0]} {value}", (protocol, address, port or 0)


def _unknown_kind(name: str) -> str:
    if name.startswith("--sctp"):
        return f"{name}: SCTP is not balanced, TCP and UDP are"
    return f"{name}: services are told by address and port, not by firewall mark"


@lru_cache(maxsize=65_536)
def _address_port(text: str) -> tuple[str, int | None]:
    """Return address, in its one spelling, and port of `1.2.3.4:80`, `[2001:db8::1]:80` or an address alone."""
    if text.startswith("["):
        bare, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        bare, _, port = (text, "", "") if text.count(":") > 1 else text.partition(":")
    try:
        address = str(ip_address(bare))
    except ValueError:
        raise Unfit(f"{text}: {bare or 'nothing'} is no address: save with `ipvsadm -S -n`") from None
    if not port:
        return address, None
    if not (port.isascii() and port.isdigit()):
        raise Unfit(f"{text}: {port} is no number of a port: save with `ipvsadm -S -n`")
    return address, _number(port, 0, 65535, "port")


def _real_server(given: dict[str, str], virtual: _Virtual) -> tuple[str, int]:
    address, port = _address_port(given["real-server"])
    return address, virtual.key[2] if port is None else port


def _service(virtual: _Virtual) -> Service:
    protocol, vip, port = virtual.key
    ports = str(port) if port else "any"
    servers = list(virtual.servers.values())
    gue_port = servers[0].gue_port if servers else None
    return Service(
        name=f"{protocol}-{vip.replace('.', '-').replace(':', '-')}-{ports}",
        vip=vip,
        port=ports,
        protocol="tcp" if protocol == "tcp" else "udp",
        encap="gue" if gue_port else "ipip",
        gue_port=gue_port or GUE_PORT,
        affinity="ring" if port else "table",
        idle=IDLE_S if port else _idle(virtual),
        backend=tuple(Backend(server.address, _weight(virtual.scheduler, server.weight)) for server in servers),
    )


def _idle(virtual: _Virtual) -> int:
    return min(virtual.persistent or IDLE_S, IDLE_MOST)


def _weight(scheduler: str, weight: int) -> int:
    return min(weight, 1) if scheduler in _UNWEIGHTED else weight


def _lost_settings(virtual: _Virtual, given: dict[str, str]) -> Iterator[str]:
    """Yield what of a virtual service's settings cannot be expressed."""
    if virtual.persistent is not None and virtual.key[2]:
        one = "one port keep flows together, not a client's connections"
        yield f"-p {virtual.persistent}: services of {one}"
    if given.get("netmask", _HOST_MASKS[0]) not in _HOST_MASKS:
        yield f"-M {given['netmask']}: clients are not taken together by network"
    if "pe" in given:
        yield f"--pe {given['pe']}: what is inside packets is not looked at"


def _server(line: int, virtual: _Virtual, given: dict[str, str]) -> _Server:
    """Return a real server, if Hopline can send to it as the rule says."""
    _, vip, port = virtual.key
    address, own_port = _real_server(given, virtual)
    methods = [name for name in _METHODS if name in given] or ["gatewaying"]
    if methods != ["ipip"]:
        unsaid = "" if methods[0] in given else ", which is meant where nothing is said"
        told = " and ".join(_METHODS[name] for name in methods)
        raise Unfit(f"{told}{unsaid}: Hopline reaches servers by tunnel (-i)")
    if own_port != port:
        raise Unfit(f"{given['real-server']}: its port is not the service's, and ports are not translated")
    if ":" in vip and ":" not in address:
        raise Unfit(f"{address}: an IPv6 service needs IPv6 servers")
    if address == vip:
        raise Unfit(f"{address}: the server is the VIP itself")
    if address in virtual.servers:
        raise Unfit(f"{address} is there already, by line {virtual.servers[address].line}")
    gue_port = _tunnel(given)
    for other in islice(virtual.servers.values(), 1):
        if other.gue_port != gue_port:
            raise Unfit(f"{address}: its tunnel is not that of line {other.line}, and a service has one kind of tunnel")
    notes = []
    limits = [f"-{short} {given[long]}" for short, long in _LIMITS if given.get(long, "0") != "0"]
    if limits:
        notes.append(_Told(line, f"{' '.join(limits)}: connections of a server are not limited: entered without it"))
    if "tun-csum" in given or "tun-remcsum" in given:
        notes.append(_Told(line, "outer UDP checksums are sent as 0, which a fou port takes as well", lost=False))
    return _Server(line, address, _number(given.get("weight", "1"), 0, WEIGHT_MOST, "-w"), gue_port, notes)


def _tunnel(given: dict[str, str]) -> int | None:
    """Return the port of a tunnel by GUE, None for IPIP."""
    encap = given.get("tun-type", "ipip")
    if encap not in ("ipip", "gue"):
        raise Unfit(f"--tun-type {encap}: servers are reached by ipip or gue")
    return _number(given.get("tun-port", str(GUE_PORT)), 1, 65535, "--tun-port") if encap == "gue" else None


def _number(text: str, least: int, most: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise Unfit(f"{what} {text}: it is a number from {least} to {most}")
    return int(text)


def _scheduled(scheduler: str) -> str:
    if scheduler == "mh":
        return "scheduler mh is Maglev as well; its hash is another, so flows may get another backend"
    counted = "" if scheduler in ("rr", "wrr", "sh", "dh") else ": by hash and weight, not by how much each has to do"
    return f"scheduler {scheduler} becomes Maglev{counted}"


def _listed(lines: Iterable[int]) -> str:
    numbers = [str(line) for line in sorted(lines)]
    return ", ".join(numbers if len(numbers) <= 6 else [*numbers[:5], f"{len(numbers) - 5} more"])
