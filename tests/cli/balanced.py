"""A service with backends before the daemon's double, which says of them what a test wants."""

import time

from hopline.daemon.protocol import BackendRow, DrainState, FlowState, RingState, ServiceRow

VIP = "192.168.33.33"
ONE, OTHER = "192.168.33.11", "192.168.33.12"
SILENT = "10.10.3.99"  # a neighbour that never answers
ADD = ("service", "add", "web", "--vip", VIP, "--port", "80-81", "--protocol", "tcp")


def served(run, *more):
    """Enter the service and two backends, the other of three times the weight."""
    assert run(*ADD, *more)[0] == 0
    assert run("backend", "add", "web", ONE) == (0, "", "")
    assert run("backend", "add", "web", OTHER, "--weight", "3") == (0, "", "")


class Readings:
    """What the double's `services` answers; a thousand packets a second come for each backend while `counting`."""

    def __init__(self, service):
        self.service, self.counting, self.began = service, False, time.monotonic()

    async def services(self, name, *, stats, flows, ring):
        known = self.service.services_by_name
        named = sorted(known) if name is None else [self.service._named(name).name]
        return [self.row(known[each], stats, flows, ring) for each in named]

    def row(self, service, stats, flows, ring):
        return ServiceRow(
            service=service,
            vip_local=False,
            ring=RingState(service.ring, 10, 20, service.ring - 30) if ring else None,
            flows=FlowState(12, 1, 2, 3, 4) if flows else None,
            backends=[self.backend(service, one, stats, flows, ring) for one in service.backend],
            problems=[] if service.backend else ["it has no backend: hopline backend add"],
        )

    def backend(self, service, one, stats, flows, ring):
        slots = round(service.ring * one.share / (sum(other.share for other in service.backend) or 1))
        packets = 7 + int((time.monotonic() - self.began) * 1000 if self.counting else 0)
        silent = one.address == SILENT
        return BackendRow(
            address=one.address,
            weight=one.weight,
            state="unresolved" if silent else "unchecked" if one.share else "draining",
            slots=slots if ring else None,
            share=slots / service.ring if ring else None,
            reason="no neighbour answers" if silent else "",
            dev="enp0s9",
            next_hop=one.via or one.address,
            mac=None if silent else "08:00:27:f2:cb:f9",
            packets=packets if stats else None,
            bytes=packets * 98 if stats else None,
            connections=packets // 7 if stats else None,
            remembered=2 if flows else None,
        )


class Leftovers:
    """What the double's `backend_drained` answers in turn, the last for ever: (flows, remembered, packets)."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def __call__(self, service, address, since):
        self.asked.append(since)
        flows, remembered, packets = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return DrainState(
            address=address,
            state="draining",
            flows=flows,
            remembered=remembered,
            slots=0,
            packets=packets,
            connections=0,
        )
