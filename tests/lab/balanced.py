"""A node that balances, real servers behind it, and clients with real TCP connections.

Farm       client 10.1.0.2 -- node -- servers 10.2.0.11 to .13 on one LAN; replies go straight back to the client
Echo       what runs on a server: says who it is and whom it is asked by, and keeps connections
Clients    connections through the VIP, each asked again and again whether it still is where it was
"""

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import hopline
from hopline.config import Backend
from hopline.kernel import netns
from hopline.lab.topology import Namespace, Port, Topology, build, tear_down
from lab.net import Daemon, sh, unique_tag

VIP4, VIP6 = "10.9.0.1", "fd00:9::1"
PORT = 80


class Farm:
    """`with Farm(3) as farm:` builds and removes it. The client reaches servers directly too: replies need that."""

    def __init__(self, servers: int = 3) -> None:
        self.tag = unique_tag()
        self.ns, self.client_ns = f"hl-{self.tag}-n", f"hl-{self.tag}-c"
        self.server_ns = [f"hl-{self.tag}-s{i}" for i in range(servers)]
        self.addresses = [f"10.2.0.{11 + i}" for i in range(servers)]
        self.addresses6 = [f"fd00:2::{11 + i}" for i in range(servers)]
        node = Namespace(
            self.ns,
            (
                Port("in", "left", "02:00:00:00:01:01", ("10.1.0.1/24", "fd00:1::1/64")),
                Port("out", "right", "02:00:00:00:02:01", ("10.2.0.1/24", "fd00:2::1/64")),
            ),
            (),
            True,
        )
        client = Namespace(
            self.client_ns,
            (Port("e", "left", "02:00:00:00:01:02", ("10.1.0.2/24", "fd00:1::2/64")),),
            ("default via 10.1.0.1", "default via fd00:1::1"),
        )
        machines = [
            Namespace(
                ns,
                (Port("e", "right", f"02:00:00:00:03:{i:02x}", (f"10.2.0.{11 + i}/24", f"fd00:2::{11 + i}/64")),),
                ("default via 10.2.0.1", "default via fd00:2::1"),
            )
            for i, ns in enumerate(self.server_ns)
        ]
        self.topology = Topology(name=self.tag, nodes=(node, client, *machines), switch=f"hl-{self.tag}-sw")

    def __enter__(self) -> "Farm":
        try:
            build(self.topology)
            for ns in self.server_ns:
                sh(ns, f"ip addr add {VIP4}/32 dev lo")
                sh(ns, f"ip addr add {VIP6}/128 dev lo")
        except BaseException:
            tear_down(self.topology.namespace_names())
            raise
        return self

    def __exit__(self, *exc) -> None:
        tear_down(self.topology.namespace_names())

    def serve(self, node: Daemon, name: str = "web", backends: int | None = None, *, v6: bool = False, **more):
        """Add a service at the VIP with the first of the servers; what the API answers."""
        addresses = (self.addresses6 if v6 else self.addresses)[:backends]
        settings = {"port": str(PORT), "protocol": "tcp", "ring": 251, **more}
        served = tuple(Backend(address) for address in addresses)
        return hopline.connect(node.instance).service.add(name, VIP6 if v6 else VIP4, backend=served, **settings)


class Servers:
    """Servers of a farm: each decapsulates by a Hopline of its own and answers connections to the VIP."""

    def __init__(self, farm: Farm, directory: Path) -> None:
        self.farm = farm
        self._stack = contextlib.ExitStack()
        self._directory = directory
        self.daemons: list[Daemon] = []
        self.echoes: list[Echo] = []

    def __enter__(self) -> "Servers":
        with contextlib.ExitStack() as stack:
            for i, ns in enumerate(self.farm.server_ns):
                daemon = stack.enter_context(Daemon(ns, self._directory / f"server{i}"))
                client = hopline.connect(daemon.instance)
                client.interface.add("e")
                client.decap.add(self.farm.addresses[i])
                client.decap.add(self.farm.addresses6[i])
                self.daemons.append(daemon)
                self.echoes.append(stack.enter_context(Echo(ns, i)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc) -> None:
        self._stack.close()


class Echo:
    """A server that says its number to each line that it is sent, on both VIPs."""

    def __init__(self, ns: str, number: int, port: int = PORT) -> None:
        self.ns, self.number, self.port = ns, number, port
        self.accepted = 0
        self._sockets: list[socket.socket] = []
        self._stopped = False

    def __enter__(self) -> "Echo":
        for family, address in ((socket.AF_INET, VIP4), (socket.AF_INET6, VIP6)):
            listener = netns.run_in(self.ns, lambda family=family: socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, self.port))
            listener.listen(4096)
            self._sockets.append(listener)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return self

    def __exit__(self, *exc) -> None:
        self._stopped = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped:
                connection, _ = listener.accept()
                self.accepted += 1
                self._sockets.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(64):
                connection.send(b"%d\n" % self.number)


@dataclass
class Clients:
    """Connections to a VIP, kept open; `moved` and `broken` say what became of those that did not stay."""

    farm: Farm
    vip: str = VIP4
    port: int = PORT
    homes: dict[socket.socket, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *exc) -> None:
        for each in self.homes:
            each.close()

    def open(self, count: int, timeout: float = 3.0) -> list[int]:
        """Open so many connections; return which server took each, -1 where none did."""
        return [self._one(timeout) for _ in range(count)]

    def _one(self, timeout: float) -> int:
        family = socket.AF_INET6 if ":" in self.vip else socket.AF_INET
        connection = netns.run_in(self.farm.client_ns, lambda: socket.socket(family, socket.SOCK_STREAM))
        connection.settimeout(timeout)
        try:
            connection.connect((self.vip, self.port))
            home = ask(connection)
        except OSError as error:
            self.failed.append(str(error))
            connection.close()
            return -1
        self.homes[connection] = home
        return home

    def broken(self, dead: tuple[int, ...] = ()) -> list[str]:
        """Ask every connection again; return what is wrong with those whose server is alive."""
        wrong = []
        for connection, home in list(self.homes.items()):
            if home in dead:
                continue
            try:
                here = ask(connection)
            except OSError as error:
                wrong.append(f"server {home}: {error}")
                continue
            if here != home:
                wrong.append(f"server {home} is {here} now")
        return wrong


def ask(connection: socket.socket) -> int:
    """Send a line and return who answers; OSError where nobody does."""
    connection.send(b"?")
    answer = connection.recv(16)
    if not answer:
        raise ConnectionResetError("closed")
    return int(answer)
