"""Clients of a Node: flows that open, talk with gaps of all lengths, end and begin again, and what became of them.

A flow has the backend that its SYN went to. A later segment that goes to another one while that one lives is broken,
unless the flow was silent for too long, or the flow table refused it or let it give way: those are counted apart.
"""

from collections import Counter

import numpy as np

from features.node import DATA, DRAINING, FIN, FINISHED_LIFE, RST, SYN

BEGINS, TALKS, ENDED = 0, 1, 2
CHATTY, COMMON, SLOW, BRINK = 0, 1, 2, 3  # how long the gaps of a flow are; the last are as long as may be


class Crowd:
    """`count` flows over some services; `keepers` by row."""

    def __init__(self, node, keepers, count, rng, rashness=0.004):
        self.node, self.keepers, self.rng, self.count = node, keepers, rng, count
        self.hashes = rng.integers(1, 1 << 63, count, dtype=np.uint64) * np.uint64(2)
        self.row = rng.choice(sorted(keepers), count)
        self.idle = node.services["idle"][self.row].astype(np.int64)
        self.kind = rng.choice(4, count, p=[0.3, 0.4, 0.2, 0.1])
        self.phase = np.full(count, BEGINS)
        self.left = self._lengths(count)
        self.next = node.clock + rng.integers(1, 60, count)
        self.last = np.zeros(count, np.int64)
        self.life = np.full(count, -1)
        self.evicted = np.zeros(count, np.bool_)
        self.refused = np.zeros(count, np.bool_)
        self.silent = np.zeros(count, np.bool_)  # once in its life
        self.rashness = rashness  # how often a flow is silent for longer than it may
        self.ending = False
        self.counts = Counter()
        self.queue = np.empty(0, np.intp)
        self.in_flight = []
        self._by_hash = np.argsort(self.hashes)

    def _lengths(self, count):
        return 1 + self.rng.geometric(1 / 12, count)

    def tick(self):
        """The clock moves on by one; who has something to say is queued."""
        self.land()
        self.node.clock += 1
        self.queue = self.rng.permutation(np.flatnonzero(self.next <= self.node.clock))

    def some(self):
        """Some of the queue sends, in between two stores."""
        size = int(self.rng.integers(0, len(self.queue) // 2 + 1))
        self._send(self.queue[:size])
        self.queue = self.queue[size:]

    def rest(self):
        """All that is left of the queue sends."""
        self._send(self.queue)
        self.queue = self.queue[:0]

    def land(self):
        """What is under way arrives: a grace period has passed."""
        waiting, self.in_flight = self.in_flight, []
        for each in waiting:
            self._arrive(*each)

    def end(self):
        """No flow begins any more, and each ends with its next segment."""
        self.ending = True
        self.left[:] = 0
        self.next[self.phase == BEGINS] = 1 << 60

    def flood(self, count):
        """SYNs of flows that are never heard of again."""
        for row in self.keepers:
            hashes = self.rng.integers(0, 1 << 62, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            decided = self.node.decide(row, np.zeros(count, np.intp), hashes, np.full(count, SYN))
            self._note_evicted(self.node.commit(decided))

    def _send(self, flows):
        self.next[flows] = self.node.clock + 1
        for row, keeper in self.keepers.items():
            some = flows[self.row[flows] == row]
            if not len(some):
                continue
            kinds = self._kinds(some)
            decided = self.node.decide(row, some, self.hashes[some], kinds)
            # what a slow processor read; a number is another's only after a grace period
            read = (decided, keeper.owner.copy(), self.node.flags(row).copy(), keeper.busy, self.evicted[some])
            # an entry that gives way from here on shows with the next segment
            self.evicted[some] = False
            if self.rng.random() < 0.3:
                self.in_flight.append(read)
            else:
                self._arrive(*read)

    def _kinds(self, flows):
        kinds = np.where(self.phase[flows] == BEGINS, SYN, DATA)
        over = (self.phase[flows] == TALKS) & (self.left[flows] <= 0)
        return np.where(over, np.where(self.rng.random(len(flows)) < 0.15, RST, FIN), kinds)

    def _note_evicted(self, decided):
        self.counts["refused"] += len(decided.refused)
        if decided.evicted:
            gone = np.array(decided.evicted, np.uint64)
            at = np.minimum(np.searchsorted(self.hashes, gone, sorter=self._by_hash), self.count - 1)
            at = self._by_hash[at]
            self.evicted[at[self.hashes[at] == gone]] = True

    def _arrive(self, decided, owner, flags, busy, evicted):
        self._note_evicted(self.node.commit(decided))
        flows, clock = decided.flows, decided.clock
        self.counts["segments"] += len(flows)
        reached = owner[decided.target]
        dead = (reached < 0) | self._ended(reached)
        syn = decided.kinds == SYN
        refused = np.isin(flows, decided.refused)
        if not busy:
            unwelcome = syn & ~refused & (flags[decided.target] & DRAINING != 0)
            self.counts["unwelcome"] += int(unwelcome.sum())
        self._begun(flows[syn], reached[syn], dead[syn])
        self._talked(flows[~syn], reached[~syn], clock, evicted[~syn])
        self.refused[flows] = refused
        self.last[flows] = clock
        self._plan(flows, decided.kinds, clock)

    def _ended(self, lives):
        over = set().union(*(keeper.ended for keeper in self.keepers.values()))
        return np.array([life in over for life in lives.tolist()], np.bool_)

    def _begun(self, flows, reached, dead):
        self.counts["flows"] += int((~dead).sum())
        self.life[flows] = np.where(dead, -1, reached)
        self.phase[flows] = np.where(dead, BEGINS, TALKS)
        self.silent[flows] = False

    def _talked(self, flows, reached, clock, evicted):
        ended = self._ended(self.life[flows])
        moved = (reached != self.life[flows]) & ~ended
        silence = clock - self.last[flows]
        allowed = np.where(self.phase[flows] == ENDED, np.minimum(self.idle[flows], FINISHED_LIFE), self.idle[flows])
        self.counts["silent"] += int((silence > allowed).sum())
        silent = self.silent[flows] = self.silent[flows] | (silence > allowed)
        for why, which in (
            ("moved_silent", moved & silent),
            ("moved_evicted", moved & ~silent & evicted),
            ("moved_refused", moved & ~silent & ~evicted & self.refused[flows]),
            ("broken", moved & ~silent & ~evicted & ~self.refused[flows]),
            ("killed", ended),
        ):
            self.counts[why] += int(which.sum())
        again = moved | ended
        self.phase[flows[again]] = BEGINS
        self.life[flows[again]] = -1

    def _plan(self, flows, kinds, clock):
        """When each of them says something again, and what."""
        over = np.isin(kinds, (FIN, RST)) & (self.phase[flows] == TALKS)
        self.left[flows] -= 1
        self.phase[flows[over]] = ENDED
        self.left[flows[over]] = np.where(kinds[over] == RST, 0, self.rng.integers(0, 4, int(over.sum())))
        new = (self.phase[flows] == ENDED) & (self.left[flows] <= 0)
        begins = self.phase[flows] == BEGINS
        self.phase[flows[new]] = BEGINS
        fresh = flows[new | begins]
        self.left[fresh] = self._lengths(len(fresh))
        self.next[flows] = clock + self._gaps(flows)
        # the same addresses and ports, again or not for long
        wait = np.where(self.rng.random(len(fresh)) < 0.5, 3, self.idle[fresh])
        self.next[fresh] = clock + self.rng.integers(1, wait + 1) if not self.ending else 1 << 60

    def _gaps(self, flows):
        idle = np.where(self.phase[flows] == ENDED, np.minimum(self.idle[flows], FINISHED_LIFE), self.idle[flows])
        drawn, kind = self.rng.random(len(flows)), self.kind[flows]
        gaps = 1 - np.log1p(-drawn) * idle / np.where(kind == CHATTY, 40, 8)
        gaps = np.where(kind == SLOW, idle * (0.5 + drawn / 2), np.where(kind == BRINK, idle, gaps))
        # some segments come soon whatever the flow is like: the table's time of last seen is behind then
        gaps = np.where(self.rng.random(len(flows)) < 0.25, 1 + drawn * idle / 16, gaps)
        gaps = np.minimum(np.maximum(gaps, 1), idle).astype(np.int64)
        rash = self.rng.random(len(flows)) < self.rashness
        return np.where(rash, idle + 1 + (drawn * idle).astype(np.int64), gaps)
