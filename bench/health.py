"""What health checks cost: a thousand backends in a namespace, asked every two seconds, by kind of check.

One server answers for all of them, in a process of its own; what is counted is the processor time of the process that
checks, all that the kernel does in its name included, and how long its event loop kept others waiting.
"""

import argparse
import asyncio
import fcntl
import gc
import os
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from record import save

from hopline.config import Backend, Service
from hopline.daemon.health import Health
from hopline.kernel import netns
from hopline.lab.shell import ip_batch

SERVER, CHECKER = "hl-bench-health-s", "hl-bench-health-c"
INTERVAL_S = 2.0
PORTS = {"tcp": 8080, "http": 8080, "https": 8443, "udp": 5353, "icmp": 0}
CHECKS = {
    "tcp": "tcp",
    "http": "http://:8080/health",
    "https": "https://:8443/health",
    "udp": "udp://:5353?send=ping&expect=pong",
    "icmp": "icmp",
}
VIP = "10.99.0.1"
VIA = ("backend", "vip")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


@dataclass
class Row:
    """A kind of check: `core` in processor seconds a second, `turn_ms` the longest turn of the event loop."""

    kind: str
    via: str
    backends: int
    checks_s: float
    core: float
    turn_ms: float
    failures: int


def addresses(count: int) -> list[str]:
    return [f"10.77.{1 + i // 250}.{1 + i % 250}" for i in range(count)]


def build() -> None:
    ip_batch(None, [f"netns add {name}" for name in (SERVER, CHECKER)])
    ip_batch(
        CHECKER,
        [
            "link set lo up",
            f"link add eth0 type veth peer name eth0 netns {SERVER}",
            "address add 10.78.0.1/24 dev eth0",
            "link set eth0 up",
        ],
    )
    ip_batch(
        SERVER,
        [
            "link set lo up",
            "address add 10.78.0.2/24 dev eth0",
            "link set eth0 up",
            "route add local 10.77.0.0/16 dev lo",
            f"address add {VIP}/32 dev lo",
        ],
    )
    ip_batch(CHECKER, ["route add 10.77.0.0/16 via 10.78.0.2"])


def tear_down() -> None:
    ip_batch(None, [f"netns delete {name}" for name in (SERVER, CHECKER) if netns.exists(name)])


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        if await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.close()


class Pong(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(b"pong", address)


async def serve(directory: str, ready) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
    loop = asyncio.get_running_loop()
    await asyncio.start_server(answer, "0.0.0.0", PORTS["http"], backlog=4096)
    await asyncio.start_server(answer, "0.0.0.0", PORTS["https"], backlog=4096, ssl=context)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", PORTS["udp"]))
    # an answer must come from the address that was asked
    sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_PKTINFO", 8), 1)
    loop.add_reader(sock, reply, sock)
    end_tunnels(loop)
    ready.set()
    await asyncio.Event().wait()


def end_tunnels(loop: asyncio.AbstractEventLoop) -> None:
    """Take outer headers of IPIP off, in user space: the kernel may have no device for it."""
    inner = os.open("/dev/net/tun", os.O_RDWR)
    # struct ifreq: IFF_TUN | IFF_NO_PI
    fcntl.ioctl(inner, 0x400454CA, struct.pack("16sH22x", b"inner", 0x1001))
    ip_batch(SERVER, ["link set inner up"])
    outer = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
    outer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    loop.add_reader(outer, lambda: os.write(inner, outer.recv(65536)[20:]))


def reply(sock: socket.socket) -> None:
    _, ancillary, _, address = sock.recvmsg(64, 64)
    # struct in_pktinfo: device, the address of ours that it came to, that of its header
    sock.sendmsg(
        [b"pong"], [(level, kind, bytes(4) + data[4:8] + bytes(4)) for level, kind, data in ancillary], 0, address
    )


def self_signed(directory: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{directory}/key.pem"]
    command = ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=bench", *key, "-out", f"{directory}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)


def server(directory: str, ready) -> None:
    netns.run_in(SERVER, lambda: asyncio.run(serve(directory, ready)))


async def stalls(worst: list[float]) -> None:
    """Note the most processor time that passed until it was this task's turn: its own doing, on a busy machine too."""
    while True:
        began = time.thread_time()
        await asyncio.sleep(0.001)
        worst[0] = max(worst[0], time.thread_time() - began)


async def measure(kind: str, via: str, backends: int, seconds: float) -> Row:
    told: list[Mapping] = []

    async def on_change(states: Mapping) -> None:
        told.append(states)

    health = Health("bench", on_change)
    await health.start()
    worst = [0.0]
    tasks = [asyncio.create_task(health.run()), asyncio.create_task(stalls(worst))]
    service = Service(
        name="bench",
        vip=VIP,
        port="8080",
        protocol="tcp",
        check=CHECKS[kind],
        check_via=via,
        interval=INTERVAL_S,
        backend=tuple(Backend(address) for address in addresses(backends)),
    )
    made = [0]
    probe = health._prober.probe

    async def counted(target):
        made[0] += 1
        return await probe(target)

    health._schedule._probe = counted
    health.configure({"bench": service})
    gc.collect()
    gc.freeze()  # as `hopline serve` does
    await asyncio.sleep(1.5 * INTERVAL_S)
    worst[0], made[0] = 0.0, 0
    began, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    wall, used = time.perf_counter() - began, time.process_time() - used
    rate, stall = made[0] / wall, worst[0]
    failures = sum(row.state is not True for row in health.rows("bench").values())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await health.stop()
    return Row(kind, via, backends, round(rate, 1), round(used / wall, 3), round(stall * 1000, 1), failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 s a row in place of 20")
    parser.add_argument("--backends", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--via", nargs="+", default=list(VIA), choices=VIA)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    tear_down()
    build()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        self_signed(directory)
        context = get_context("spawn")
        ready = context.Event()
        process = context.Process(target=server, args=(directory, ready), daemon=True)
        process.start()
        try:
            ready.wait(20)
            seconds = 4.0 if asked.quick else 20.0
            for kind, via in ((kind, via) for kind in asked.kinds for via in asked.via):
                row = netns.run_in(CHECKER, asyncio.run, measure(kind, via, asked.backends, seconds))
                rows.append(row)
                print(
                    f"{kind:5} via {via:7} {row.backends} backends, {row.checks_s:6.1f} checks/s:"
                    f" {row.core:.3f} of a core, longest turn {row.turn_ms} ms, {row.failures} not up",
                    flush=True,
                )
        finally:
            process.terminate()
            process.join()
            tear_down()
    if asked.json:
        save(asked.json, cpus=os.cpu_count(), rows=[asdict(row) for row in rows])


if __name__ == "__main__":
    main()
