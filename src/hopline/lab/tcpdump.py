"""Watching a port with the real tcpdump, MAC addresses shown, bounded in count and in time."""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hopline.errors import HoplineError
from hopline.lab.shell import enter, environment

MOST_FRAMES = 64
MOST_SECONDS = 20
# a frame is on its way from the wire to tcpdump's output for about this long
SETTLE_SECONDS = 0.15

_LINE = re.compile(
    r"(?P<source>[0-9a-f:]{17}) > (?P<destination>[0-9a-f:]{17}), ethertype IPv4.*?: "
    r"(?P<sender>[0-9.]+) > (?P<receiver>[0-9.]+): ICMP echo (?P<kind>request|reply)"
)


@dataclass(frozen=True)
class Echo:
    """An ICMP echo as tcpdump showed it: MACs, addresses, and `request` or `reply`."""

    source: str
    destination: str
    sender: str
    receiver: str
    kind: str

    @property
    def pinger(self) -> str:
        """The address of the machine that pings."""
        return self.sender if self.kind == "request" else self.receiver


def parse(lines: Sequence[str]) -> list[Echo]:
    """The echoes among tcpdump's lines, in order; other lines are left out."""
    return [Echo(**match.groupdict()) for line in lines if (match := _LINE.search(line))]


def describe(echoes: Sequence[Echo], names: Mapping[str, str]) -> str:
    """Who sent what to whom, counted: `3 requests B > A.enp0s3, 3 replies C > B`; MACs without a name stay MACs."""
    plural = {"request": "requests", "reply": "replies"}
    counted = Counter((e.kind, names.get(e.source, e.source), names.get(e.destination, e.destination)) for e in echoes)
    parts = (f"{n} {plural[kind] if n > 1 else kind} {source} > {to}" for (kind, source, to), n in counted.items())
    return ", ".join(parts) or "nothing"


class Tcpdump:
    """A capture on one device of one namespace; inside the `with` block it is certainly listening."""

    def __init__(self, namespace: str, device: str, expression: str = "icmp") -> None:
        self.namespace = namespace
        self.arguments = ["tcpdump", "-i", device, "-enn", "-l", "--immediate-mode", "-c", str(MOST_FRAMES), expression]
        self.command = f"tcpdump -i {device} -enn {expression}"
        self.lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # `timeout` bounds it even if this process is killed
        bounded = ["timeout", str(MOST_SECONDS), *self.arguments]
        self._process = subprocess.Popen(
            enter(self.namespace, bounded),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert self._process.stderr is not None
        said: list[str] = []
        for line in self._process.stderr:
            said.append(line.strip())
            if "listening on" in line:
                return self
        self._process.communicate()
        raise HoplineError(
            f"{self.command}: {said[-1] if said else 'ended at once'}: run it by hand in {self.namespace}"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kind is None:
            time.sleep(SETTLE_SECONDS)
        process.terminate()
        try:
            output, _ = process.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        self.lines = [line for line in output.splitlines() if line]

    @property
    def echoes(self) -> list[Echo]:
        """What was captured, once the `with` block is left."""
        return parse(self.lines)
