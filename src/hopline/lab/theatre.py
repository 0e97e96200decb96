"""Where a story meets a topology: commands, pings and captures on its machines, shown as they happen."""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping

from hopline.lab.shell import Result, enter, run
from hopline.lab.story import Story
from hopline.lab.tcpdump import Echo, Tcpdump, describe

_PING = re.compile(r"(\d+) packets transmitted, (\d+) (?:packets )?received")
_TTL = re.compile(r"\bttl=(\d+)")


class Theatre:
    """Machines are called by their letter (`B` is namespace `hl-b`), ports by letter and device (`A enp0s3`)."""

    def __init__(self, story: Story, names: Mapping[str, str]) -> None:
        self.story = story
        self.names = names

    @staticmethod
    def namespace(host: str) -> str:
        """The namespace of a machine."""
        return f"hl-{host.lower()}"

    def do(self, host: str, command: str, show: bool = True) -> Result:
        """Run a command on a machine, showing it and what it prints; raises HoplineError if it fails."""
        result = run(enter(self.namespace(host), shlex.split(command)))
        if show:
            self.story.command(host, command)
            self.story.output(result.stdout.splitlines())
        return result

    def acquaint(self, host: str, target: str) -> None:
        """One ping that waits for its answer, so that what follows is not about who asks for whose MAC address."""
        command = f"ping -n -q -c 1 -w 3 {target}"
        self.story.command(host, f"{command} > /dev/null")
        run(enter(self.namespace(host), shlex.split(command)), check=False)

    def ping(self, host: str, target: str, count: int = 3) -> str:
        """Ping and show it; the answer reads like `3 of 3 answered, ttl 64`."""
        command = f"ping -n -c {count} -i 0.2 -W 1 {target}"
        self.story.command(host, command)
        result = run(enter(self.namespace(host), shlex.split(command)), check=False)
        lines = result.stdout.splitlines()
        self.story.output([line for line in lines if "bytes from" in line or "packets transmitted" in line])
        found = _PING.search(result.stdout)
        if found is None:
            return (result.stderr.strip().splitlines() or ["ping said nothing"])[-1]
        lives = sorted(set(_TTL.findall(result.stdout)))
        return f"{found[2]} of {found[1]} answered" + (f", ttl {' and '.join(lives)}" if lives else "")

    def named(self, text: str) -> str:
        """The text with each MAC address that has a name replaced by it."""
        for mac, name in self.names.items():
            text = text.replace(mac, name)
        return text

    @contextlib.contextmanager
    def watching(self, *ports: str) -> Iterator[dict[str, list[Echo]]]:
        """Capture on ports (`A enp0s3`) while the block runs; filled with their ICMP echoes when it is left."""
        seen: dict[str, list[Echo]] = {}
        captures: dict[str, Tcpdump] = {}
        with contextlib.ExitStack() as stack:
            for port in ports:
                host, _, device = port.partition(" ")
                captures[port] = stack.enter_context(Tcpdump(self.namespace(host), device))
                self.story.command(host, f"{captures[port].command} &")
            yield seen
        for port, capture in captures.items():
            self.story.line(f"   tcpdump on {port}:")
            self.story.output(capture.lines or ["(nothing)"])
            seen[port] = capture.echoes

    def check_path(self, port: str, expected: str, seen: Mapping[str, list[Echo]], pinger: str | None = None) -> bool:
        """Check who sent what to whom on a port; with `pinger` (an address) only of that machine's pings."""
        echoes = [echo for echo in seen[port] if pinger in (None, echo.pinger)]
        what = f"tcpdump on {port}" + (f", pings of {pinger}" if pinger else "")
        return self.story.check(what, expected, describe(echoes, self.names))

    def device_index(self, host: str, device: str) -> int:
        """The number the kernel gave a device of a machine."""
        return int(json.loads(self.do(host, f"ip -j link show dev {device}", show=False).stdout)[0]["ifindex"])
