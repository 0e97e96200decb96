"""Rise and fall: how many results make a state. Pure."""

from hopline.daemon.health.outcome import Outcome


class Verdict:
    """One check's state, None until known: the first success makes it up, `fall` failures in a row make it down."""

    def __init__(self, rise: int, fall: int, state: bool | None = None) -> None:
        self.rise = rise
        self.fall = fall
        self.state = state
        self._against = 0  # results in a row that speak against the state

    def take(self, outcome: Outcome) -> bool:
        """Count one result; return whether the state is another now. A check that was not made counts for nothing."""
        if outcome.good is None:
            return False
        if outcome.good == self.state:
            self._against = 0
            return False
        needed = self.fall if not outcome.good else 1 if self.state is None else self.rise
        self._against += 1
        if self._against < needed:
            return False
        self._against, self.state = 0, outcome.good
        return True
