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
        netns.run_in(NAMESPACE, measure)
    finally:
        netns.delete(NAMESPACE)
