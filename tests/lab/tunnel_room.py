"""A node between two servers that have its VIPs too, and health checks that live in a thread of its namespace."""

import asyncio
import contextlib
import threading
import time

from hopline.config import Service
from hopline.daemon.health import Health
from hopline.kernel import netns
from hopline.lab.topology import Namespace, Port, Topology, build, tear_down
from lab.net import sh, unique_tag

VIP, VIP6 = "10.60.9.9", "fd60:9::9"
ONE, TWO = "10.60.1.11", "10.60.2.11"
ONE6, TWO6 = "fd60:1::11", "fd60:2::11"
NODE = {ONE: "10.60.1.1", TWO: "10.60.2.1", ONE6: "fd60:1::1", TWO6: "fd60:2::1"}  # its address towards each


class Net:
    """A node with a cable to each of two servers; the VIPs are local on all three."""

    def __init__(self) -> None:
        self.tag = unique_tag()
        self.node, self.one, self.two = (f"hl-{self.tag}-{name}" for name in ("node", "one", "two"))
        ports = {
            number: [
                Port(
                    device,
                    f"lan{number}",
                    f"02:00:00:00:6{number}:0{last}",
                    (f"10.60.{number}.{host}/24", f"fd60:{number}::{host}/64"),
                )
                for device, last, host in ((f"eth{number}", 1, 1), ("eth0", 2, 11))
            ]
            for number in (1, 2)
        }
        near = Namespace(self.node, (ports[1][0], ports[2][0]))
        far = [Namespace(name, (ports[number][1],)) for number, name in ((1, self.one), (2, self.two))]
        self.topology = Topology(self.tag, (near, *far))

    def __enter__(self) -> "Net":
        try:
            build(self.topology)
            for vip in (VIP, VIP6):
                sh(self.node, f"ip address add {vip} dev eth1{' nodad' if ':' in vip else ''}")
        except BaseException:
            tear_down(self.topology.namespace_names())
            raise
        return self

    def __exit__(self, *exc) -> None:
        tear_down(self.topology.namespace_names())


class Checking:
    """Health in the node's namespace, in a thread with an event loop; `states` is what it told."""

    def __init__(self, ns: str, instance: str) -> None:
        self.states: dict = {}
        self.ns, self.instance = ns, instance

    def __enter__(self) -> "Checking":
        began = threading.Event()
        self._thread = threading.Thread(
            target=lambda: netns.run_in(self.ns, lambda: asyncio.run(self._live(began))), daemon=True
        )
        self._thread.start()
        assert began.wait(10)
        return self

    async def _live(self, began) -> None:
        async def on_change(states):
            self.states.update(states)

        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.health = Health(self.instance, on_change)
        await self.health.start()
        task = asyncio.create_task(self.health.run())
        began.set()
        await self._end.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self.health.stop()

    def __exit__(self, *exc) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)

    def configure(self, *services: Service) -> None:
        self.loop.call_soon_threadsafe(self.health.configure, {service.name: service for service in services})

    def row(self, name: str, backend: str):
        return self.health.rows(name).get(backend)

    def wait(self, name: str, backend: str, state: bool | None, seconds: float = 5.0):
        deadline = time.monotonic() + seconds
        while (row := self.row(name, backend)) is None or row.state is not state:
            assert time.monotonic() < deadline, (row, self.states)
            time.sleep(0.02)
        return row

    def wait_for_text(self, name: str, backend: str, text: str, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while (row := self.row(name, backend)) is None or row.text != text:
            assert time.monotonic() < deadline, row
            time.sleep(0.02)
