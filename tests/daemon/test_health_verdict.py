import pytest

from hopline.daemon.health.outcome import bad, good, unknown
from hopline.daemon.health.verdict import Verdict

RESULTS = {"+": good("x"), "-": bad("x"), "?": unknown("x")}


@pytest.mark.parametrize(
    ("begin", "results", "states", "why"),
    [
        (None, "+", "U", "the first success is enough where nothing is known"),
        (None, "---", "??D", "a new one is not put down before `fall` failures"),
        (None, "--+", "??U", "nor where it answers before"),
        (True, "--+--+---", "UUUUUUUUD", "failures count in a row"),
        (False, "+-++", "DDDU", "successes too"),
        (True, "--?-", "UUUD", "what was not checked counts for nothing, and breaks no row"),
        (False, "?????", "DDDDD", "and moves no state"),
    ],
)
def test_states(begin, results, states, why):
    verdict = Verdict(rise=2, fall=3, state=begin)
    letters = {None: "?", True: "U", False: "D"}
    before, seen = begin, ""
    for result in results:
        changed = verdict.take(RESULTS[result])
        assert changed == (verdict.state != before), why
        before = verdict.state
        seen += letters[before]
    assert seen == states, why
