"""Clients of the daemon's API that ask as fast as they are answered: requests a second, and how long one waits.

A process of its own, for it needs a CPU of its own: `python bench/control_clients.py SOCKET CLIENTS SECONDS KIND`.
KIND is `show` (one entry is read) or `replace` (one entry gets another next hop, durably and in the kernel). Each
client keeps its connection.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path

FIRST = IPv4Address("11.0.0.0")
MACS = ("02:00:00:00:00:00", "02:00:00:00:00:01")


def percentile(sorted_values: list[float], part: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * part))]


def body_of(to: str, turn: int) -> bytes:
    return json.dumps({"to": to, "dev": "out0", "dst_mac": MACS[turn % 2]}).encode()


def requests(kind: str, to: str) -> Iterator[bytes]:
    for turn in count():
        if kind == "show":
            yield f"GET /forwards?to={to}&origin=operator HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            continue
        body = body_of(to, turn)
        head = "PUT /forwards HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def client(socket: str, kind: str, to: str, until: float, took: list[float]) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    for request in requests(kind, to):
        began = time.perf_counter()
        if began >= until:
            break
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        took.append(time.perf_counter() - began)
    writer.close()


async def clients(socket: str, number: int, seconds: float, kind: str) -> dict[str, float]:
    took: list[float] = []
    began = time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(client(socket, kind, str(FIRST + n), until, took) for n in range(number)))
    elapsed = time.perf_counter() - began
    took.sort()
    return {
        "requests": len(took),
        "per_second": round(len(took) / elapsed, 1),
        "p50_ms": round(percentile(took, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(took, 0.99) * 1e3, 3),
    }


def measured(socket: Path, number: int, seconds: float, kind: str) -> dict[str, float]:
    """Run the clients in a process of their own."""
    command = [sys.executable, __file__, str(socket), str(number), str(seconds), kind]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    where, how_many, how_long, what = sys.argv[1:]
    print(json.dumps(asyncio.run(clients(where, int(how_many), float(how_long), what))))
