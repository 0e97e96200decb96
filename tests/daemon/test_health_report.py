import asyncio
import contextlib

from hopline.daemon.health import report
from hopline.daemon.health.report import Report
from hopline.errors import Refused


def tell(script, on_change):
    async def body():
        telling = Report(on_change)
        task = asyncio.create_task(telling.run())
        await script(telling)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(body(), 10))


def test_what_changes_within_50_ms_is_one_call_and_the_last_state_counts():
    calls = []

    async def on_change(states):
        calls.append((asyncio.get_running_loop().time(), dict(states)))

    async def script(telling):
        began = asyncio.get_running_loop().time()
        calls.append(began)
        for number in range(1000):
            telling.tell(("a", str(number)), False)
        await asyncio.sleep(0.01)
        telling.tell(("a", "7"), True)
        await asyncio.sleep(0.2)

    tell(script, on_change)
    began, (at, states) = calls
    assert at - began < 0.05 + 0.03  # the machine may be slow
    assert len(states) == 1000
    assert [number for (_, number), state in states.items() if state] == ["7"]


def test_one_call_at_a_time_and_none_is_lost_meanwhile():
    running, calls = [0], []

    async def on_change(states):
        assert running == [0]
        running[0] += 1
        calls.append(dict(states))
        await asyncio.sleep(0.15)
        running[0] -= 1

    async def script(telling):
        for number in range(20):
            telling.tell(("a", str(number)), True)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.4)

    tell(script, on_change)
    assert 2 <= len(calls) <= 5
    assert {pair for states in calls for pair in states} == {("a", str(number)) for number in range(20)}


def test_what_was_refused_is_told_again_unless_it_has_changed(monkeypatch):
    monkeypatch.setattr(report, "AGAIN_S", 0.05)
    calls = []

    async def on_change(states):
        calls.append(dict(states))
        if len(calls) == 1:
            raise Refused("no room")

    async def script(telling):
        telling.tell(("a", "1"), False)
        telling.tell(("a", "2"), False)
        await asyncio.sleep(0.06)
        telling.tell(("a", "2"), True)
        await asyncio.sleep(0.3)

    tell(script, on_change)
    assert calls == [{("a", "1"): False, ("a", "2"): False}, {("a", "1"): False, ("a", "2"): True}]
