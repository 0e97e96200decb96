import asyncio
import itertools

from hopline.daemon.health.outcome import good, unknown
from hopline.daemon.health.schedule import AT_ONCE, JITTER, Checker, Schedule
from hopline.daemon.health.targets import Request, Target

INTERVAL = 0.5


def checker(number: int = 0, interval: float = INTERVAL) -> Checker:
    request = Request("tcp", 80, "", "", (), b"", b"", interval, 1, 1)
    return Checker(Target(f"10.0.{number // 250}.{number % 250}", request), None)


def run(body):
    return asyncio.run(asyncio.wait_for(body, 20))


def test_a_thousand_are_spread_over_the_interval_and_stay_so():
    async def body():
        began: dict[str, list[float]] = {}
        loop = asyncio.get_running_loop()
        running, most = 0, 0

        async def probe(target):
            nonlocal running, most
            began.setdefault(target.address, []).append(loop.time())
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return good("x")

        schedule = Schedule(probe, lambda checker, changed: None)
        start = loop.time()
        for number in range(1000):
            schedule.add(checker(number))
        await asyncio.sleep(4 * INTERVAL)
        schedule.close()
        return start, began, most

    start, began, most = run(body())
    assert len(began) == 1000
    firsts = sorted(times[0] - start for times in began.values())
    # in each tenth of the interval a tenth of them, more or less (a fifth of 100 is 2 of its deviations)
    tenths = [sum(tenth <= first / INTERVAL * 10 < tenth + 1 for first in firsts) for tenth in range(10)]
    assert all(50 < count < 160 for count in tenths), tenths
    gaps = [b - a for times in began.values() for a, b in itertools.pairwise(times)]
    assert min(gaps) > INTERVAL * (1 - JITTER) - 0.01
    assert INTERVAL * 0.97 < sum(gaps) / len(gaps) < INTERVAL * 1.1
    assert most <= 2 * AT_ONCE


def test_those_that_are_due_at_once_begin_a_few_at_a_time():
    async def body():
        turns: list[int] = []
        begun = 0

        async def probe(target):
            nonlocal begun
            begun += 1
            await asyncio.Event().wait()

        schedule = Schedule(probe, lambda checker, changed: None)
        checkers = [checker(number, 0.001) for number in range(100)]
        for each in checkers:
            schedule.add(each)
        import time

        time.sleep(0.01)  # the loop was busy: all are due now
        while begun < 100:
            before = begun
            await asyncio.sleep(0)
            turns.append(begun - before)
        for each in checkers:
            each.stop()
        schedule.close()
        return turns

    assert max(run(body())) <= AT_ONCE


def test_one_that_takes_longer_than_its_interval_is_never_two():
    async def body():
        running, most, made = 0, 0, 0

        async def probe(target):
            nonlocal running, most, made
            running, made = running + 1, made + 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1
            return good("x")

        schedule = Schedule(probe, lambda checker, changed: None)
        schedule.add(checker(interval=0.02))
        await asyncio.sleep(0.5)
        schedule.close()
        return most, made

    most, made = run(body())
    assert most == 1
    assert 5 <= made <= 11


def test_a_stopped_one_is_told_of_no_more():
    async def body():
        told = []

        async def probe(target):
            await asyncio.sleep(0.02)
            return good("x")

        schedule = Schedule(probe, lambda checker, changed: told.append(changed))
        one = checker(interval=0.05)
        schedule.add(one)
        while one.task is None:
            await asyncio.sleep(0.001)
        one.stop()
        await asyncio.sleep(0.1)
        schedule.close()
        return told

    assert run(body()) == []


def test_a_fault_of_our_own_ends_no_check(caplog):
    async def body():
        heard = []

        async def probe(target):
            raise KeyError("x")

        schedule = Schedule(probe, lambda checker, changed: heard.append((checker.outcome, changed)))
        schedule.add(checker(interval=0.02))
        await asyncio.sleep(0.2)
        schedule.close()
        return heard

    heard = run(body())
    assert len(heard) > 3
    assert set(heard) == {(unknown("a fault of hopline's own: see its log"), False)}
    assert "KeyError" in caplog.text
