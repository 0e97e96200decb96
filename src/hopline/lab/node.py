"""The machine of a lab on which Hopline runs: its daemon, its command line, its JSON API and its trace."""

import json
import shlex
import time
from collections import Counter
from typing import Any

from hopline.errors import HoplineError
from hopline.lab.service import Service
from hopline.lab.shell import Result
from hopline.lab.story import Story
from hopline.lab.theatre import Theatre

API_PORT = 5555
TRACE_SECONDS = 2.0
POLL_SECONDS = 0.05


class Node:
    """Hopline on machine `host`, reached on `control` (an address) by programs on other machines."""

    def __init__(self, play: Theatre, host: str, service: Service, control: str) -> None:
        self.play = play
        self.host = host
        self.service = service
        self.url = f"http://{control}:{API_PORT}/"
        self._counted: dict[str, int] = {}

    @property
    def story(self) -> Story:
        """The story that is being told."""
        return self.play.story

    def serve(self) -> None:
        """Start the daemon, as a user would, and wait until it answers."""
        self.story.command(self.host, f"hopline {' '.join(self.service.arguments)} > {self.service.log} 2>&1 &")
        self.service.start()

    def hopline(self, arguments: str) -> Result:
        """Run a `hopline` command on the machine, showing it and what it prints."""
        self.story.command(self.host, f"hopline {arguments} --instance {self.service.instance}")
        result = self.service.call(*shlex.split(arguments))
        self.story.output((result.stdout + result.stderr).splitlines(), limit=24)
        return result

    def forwarded(self) -> dict[str, int]:
        """Packets with verdict FORWARDED by the device they came in by."""
        interfaces = self.service.json("status")["interfaces"]
        return {each["name"]: each["verdicts"].get("FORWARDED", {"packets": 0})["packets"] for each in interfaces}

    def count_from_here(self) -> None:
        """Remember the counters, for `moved`."""
        self._counted = self.forwarded()

    def moved(self) -> str:
        """How far FORWARDED has moved since `count_from_here`: `3 on enp0s3, 0 on enp0s9`."""
        now = self.forwarded()
        return ", ".join(f"{now[device] - self._counted.get(device, 0)} on {device}" for device in sorted(now))

    def entry(self, destination: str, origin: str) -> str:
        """What `forward show` has for a destination: `enp0s9 A.enp0s9 > C.enp0s9`, or `no entry`."""
        rows = self.service.json("forward", "show", destination, "--origin", origin)
        hosts = (destination, f"{destination}/32")
        for row in rows:
            if row["to"] in hosts:
                return self.play.named(f"{row['dev']} {row['src_mac']} > {row['dst_mac']}")
        return "no entry"

    def trace_end(self) -> int:
        """Where the daemon's log ends now, in bytes."""
        return self.service.log.stat().st_size

    def check_trace(self, since: int, destination: str, count: int, hop: str) -> bool:
        """Show the trace since `trace_end` of packets to `destination`; check it has `count`, all sent on by `hop`.

        A hop reads like `enp0s9 A.enp0s9 > C.enp0s9`.
        """
        deadline = time.monotonic() + TRACE_SECONDS
        lines: list[str] = []
        while len(lines) < count and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            with self.service.log.open("rb") as log:
                log.seek(since)
                said = log.read().decode(errors="replace").splitlines()
            lines = [line for line in said if f" > {destination} " in line and " FORWARDED " in line]
        self.story.line(f"   trace on {self.host}, packets to {destination}:")
        self.story.output(lines or ["(nothing)"])
        taken = Counter(self.play.named(line.rpartition(" to ")[2]) for line in lines)
        seen = ", ".join(f"{n} FORWARDED to {way}" for way, n in taken.items()) or "nothing"
        return self.story.check(f"trace, packets to {destination}", f"{count} FORWARDED to {hop}", seen)

    def post(self, host: str, action: str, **fields: object) -> dict[str, Any]:
        """POST an action to the JSON API with curl from another machine, showing both; the parsed answer."""
        body = json.dumps({"action": action, "traceId": f"lab-{action}", **fields})
        result = self.play.do(host, f"curl -sS -m 5 -d {shlex.quote(body)} {self.url}")
        try:
            answer = json.loads(result.stdout)
        except ValueError as error:
            raise HoplineError(f"curl {self.url}: {action}: {error}: {result.stdout[:80]!r}") from None
        if not isinstance(answer, dict):
            raise HoplineError(f"curl {self.url}: {action}: not an object: {result.stdout[:80]!r}")
        return answer

    def change(self, host: str, action: str, **fields: object) -> str:
        """Like `post`, for an action that only answers yes or no: `code 200`, or the code and what was wrong."""
        answer = self.post(host, action, **fields)
        errors = "; ".join(error.get("msg", "") for error in answer.get("errors", []))
        return f"code {answer.get('code')}" + (f": {errors}" if errors else "")

    def query(self, host: str, destination: str) -> str:
        """What QueryForward says of a destination: `operator: device 2, A.enp0s3 > C.enp0s3`, or `no entry`."""
        for row in self.post(host, "QueryForward").get("Tables", []):
            if row["Ip"] == destination:
                way = f"{row['SrcMac']} > {row['DstMac']}"
                return self.play.named(f"{row['Origin']}: device {row['Iface']}, {way}")
        return "no entry"
