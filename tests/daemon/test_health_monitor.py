import asyncio
import gc
import time

import pytest

from hopline.config import Backend, Service
from hopline.daemon.health import Health
from hopline.daemon.health.outcome import bad, good
from hopline.daemon.health.probe import Prober

PAUSE = 0.15  # longer than an interval, its jitter, and what is gathered before it is told


class World:
    """Backends that answer as `down` says, `asked` how often each was asked."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.asked: dict[str, int] = {}
        self.calls: list[dict] = []

    @property
    def told(self) -> dict:
        return {pair: state for states in self.calls for pair, state in states.items()}

    async def probe(self, target):
        self.asked[target.address] = self.asked.get(target.address, 0) + 1
        return bad("connection refused") if target.address in self.down else good("connected")

    async def on_change(self, states) -> None:
        self.calls.append(dict(states))


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(Prober, "probe", lambda _self, target: world.probe(target))
    return world


def checked(world, body):
    async def all_of_it():
        health = Health("test", world.on_change)
        task = asyncio.create_task(health.run())
        await body(health)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await health.stop()

    asyncio.run(asyncio.wait_for(all_of_it(), 30))


def service(name: str = "a", *backends: str, **fields) -> Service:
    fields = {
        "vip": "10.9.0.1",
        "port": "80",
        "protocol": "tcp",
        "check": "tcp",
        "interval": 0.05,
        "rise": 2,
        "fall": 2,
        **fields,
    }
    return Service(name=name, backend=tuple(map(Backend, backends or ("10.0.0.1", "10.0.0.2"))), **fields)


def by_name(*services: Service) -> dict[str, Service]:
    return {one.name: one for one in services}


def test_states_texts_and_times(world):
    async def body(health):
        world.down = {"10.0.0.2"}
        health.configure(by_name(service()))
        await asyncio.sleep(0.02)
        assert {row.text for row in health.rows("a").values()} <= {"not checked yet", "connected", "connection refused"}
        await asyncio.sleep(2 * PAUSE)
        one, two = health.rows("a")["10.0.0.1"], health.rows("a")["10.0.0.2"]
        assert (one.state, one.text) == (True, "connected")
        assert (two.state, two.text) == (False, "connection refused")
        assert abs(time.time() - two.since) < 1
        assert world.told == {("a", "10.0.0.1"): True, ("a", "10.0.0.2"): False}
        world.down = set()
        await asyncio.sleep(2 * PAUSE)
        assert health.rows("a")["10.0.0.2"].since > two.since
        assert world.told["a", "10.0.0.2"] is True
        assert health.rows("b") == {}

    checked(world, body)


def test_one_backend_of_many_services_is_asked_once_and_told_of_in_one_call(world):
    async def body(health):
        services = [
            service(f"s{number}", "10.0.0.1", vip=f"10.9.{number // 250}.{number % 250}") for number in range(1000)
        ]
        health.configure(by_name(*services))
        await asyncio.sleep(1)
        world.calls.clear()
        world.asked.clear()
        began = time.monotonic()
        world.down = {"10.0.0.1"}
        await asyncio.sleep(0.5)
        assert world.asked["10.0.0.1"] <= (time.monotonic() - began) / 0.045 + 1
        assert [len(states) for states in world.calls] == [1000]

    checked(world, body)


def test_what_does_not_concern_a_check_leaves_it_as_it_is(world):
    async def body(health):
        world.down = {"10.0.0.2"}
        health.configure(by_name(service()))
        await asyncio.sleep(2 * PAUSE)
        before, checkers = health.rows("a"), dict(health._checkers)
        world.calls.clear()
        health.configure(by_name(service(ring=251, all_down="refuse"), service("b", "10.0.0.3", "10.0.0.2")))
        await asyncio.sleep(2 * PAUSE)
        assert health.rows("a") == before
        assert checkers.items() <= health._checkers.items()
        # a service that comes to share a check is told what is known of it
        assert world.told == {("b", "10.0.0.2"): False, ("b", "10.0.0.3"): True}

    checked(world, body)


def test_a_state_stays_when_its_check_becomes_another(world):
    async def body(health):
        world.down = {"10.0.0.1", "10.0.0.2"}
        health.configure(by_name(service()))
        await asyncio.sleep(2 * PAUSE)
        world.calls.clear()
        health.configure(by_name(service(check="tcp://:8080", fall=100, rise=100)))
        await asyncio.sleep(2 * PAUSE)
        assert {row.state for row in health.rows("a").values()} == {False}
        assert world.calls == []

    checked(world, body)


def test_states_that_the_kernel_was_left_with_are_where_it_begins(world):
    async def body(health):
        health.configure(by_name(service(rise=3)), {("a", "10.0.0.1"): False})
        await asyncio.sleep(0.01)
        assert health.rows("a")["10.0.0.1"].state is False
        await asyncio.sleep(3 * PAUSE)
        assert health.rows("a")["10.0.0.1"].state is True
        assert world.told["a", "10.0.0.1"] is True

    checked(world, body)


def test_what_is_checked_no_more_is_not_known(world):
    async def body(health):
        health.configure(by_name(service(), service("b"), service("c", "10.0.0.9")))
        await asyncio.sleep(2 * PAUSE)
        world.calls.clear()
        health.configure(by_name(service("a", "10.0.0.1"), service("b", check="none")))
        await asyncio.sleep(PAUSE)
        gone = [("a", "10.0.0.2"), ("b", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.9")]
        assert world.told == dict.fromkeys(gone)
        assert set(health.rows("a")) == {"10.0.0.1"}
        assert health.rows("b") == health.rows("c") == {}
        world.asked.clear()
        await asyncio.sleep(PAUSE)
        assert set(world.asked) == {"10.0.0.1"}

    checked(world, body)


def test_a_hundred_thousand_backends_are_configured_in_short_turns(world):
    async def body(health):
        backends = tuple(f"10.{number // 250}.{number % 250}.1" for number in range(100))
        services = by_name(
            *(
                service(f"s{number}", *backends, vip=f"10.9.{number // 250}.{number % 250}", interval=60.0)
                for number in range(1000)
            )
        )
        # what the collector of all of pytest's garbage takes is not of configuring
        gc.collect()
        gc.disable()
        worst, done = 0.0, asyncio.get_running_loop().time() + 5

        health.configure(services)
        while len(health._done) < 1000 and asyncio.get_running_loop().time() < done:
            began = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - began)
        gc.enable()
        assert len(health._done) == 1000
        assert len(health._checkers) == 100
        assert worst < 0.02

    checked(world, body)


def test_why_a_check_cannot_be_made_is_said_in_a_line(world):
    async def body(health):
        assert health.refusal(service(check_via="vip")) == "check_via vip: the daemon has not begun yet"
        assert health.refusal(service()) is None
        assert health.refusal(service(check_via="vip", check="none")) is None

    checked(world, body)
