"""A namespace with two cables for the benches; nothing is sent, the devices are only named."""

import os
import subprocess
from collections.abc import Callable

from hopline.kernel import netns

NAMESPACE = f"hl-bench-{os.getpid()}"


def in_world(measure: Callable[[], None]) -> None:
    """Run `measure` in a fresh namespace with in0 and out0, both able to take redirects."""
    netns.create(NAMESPACE)
    try:
        inside = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
        for near, far in (("in0", "in1"), ("out0", "out1")):
            subprocess.run([*inside, "ip", "link", "add", near, "type", "veth", "peer", "name", far], check=True)
            # gro first: the kernel looks at the peer's when a veth is set up
            for device in (near, far):
                subprocess.run([*inside, "ethtool", "-K", device, "gro", "on"], check=True)
            for device in (near, far):
                subprocess.run([*inside, "ip", "link", "set", device, "up"], check=True)
        # a handful of routes, one of which leads where the benches' packets go
        subprocess.run([*inside, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1"], check=True)
        for line in ("address add 10.99.0.1/24 dev out0", "route add 11.0.0.0/8 via 10.99.0.2",
                     "neigh add 10.99.0.2 lladdr 02:00:00:00:0e:01 dev out0 nud permanent"):  # fmt: skip
            subprocess.run([*inside, "ip", *line.split()], check=True)
        netns.run_in(NAMESPACE, measure)
    finally:
        netns.delete(NAMESPACE)
