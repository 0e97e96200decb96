"""keep_alive makes the kernel probe what XDP uses, and changes nothing it must not."""

import errno
import time

import pytest

from hopline.errors import KernelError
from hopline.kernel import netns
from hopline.kernel.netlink import neighbour, query
from hopline.kernel.netlink.neighbour import keep_alive, resolve
from hopline.kernel.netlink.types import Neighbour
from lab.netlink_room import needs_root, room, shell

pytestmark = needs_root
FIRST, SECOND = "02:00:00:00:00:02", "02:00:00:00:00:99"


@pytest.fixture
def pair():
    """A host with v0, and its neighbour's namespace with v1."""
    with room() as near, room() as far:
        for each in (near, far):  # an IPv6 address under duplicate address detection cannot ask
            shell(each, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0")
        shell(near, f"ip link add v0 type veth peer name v1 address {FIRST} netns {far}; ip link set v0 up")
        shell(far, "ip link set v1 up; ip addr add 10.0.0.2/24 dev v1; ip addr add 2001:db8::2/64 dev v1 nodad")
        shell(near, "ip addr add 10.0.0.1/24 dev v0; ip addr add 2001:db8::1/64 dev v0 nodad")
        shell(near, "sysctl -qw net.ipv4.neigh.v0.delay_first_probe_time=1 net.ipv6.neigh.v0.delay_first_probe_time=1")
        shell(near, "sysctl -qw net.ipv4.neigh.v0.retrans_time_ms=100 net.ipv6.neigh.v0.retrans_time_ms=100")
        yield near, far


def entry(ns: str, address: str) -> Neighbour | None:
    found = [item for item in netns.run_in(ns, query.neighbours) if item.address == address]
    return found[0] if found else None


def wait_for(ns: str, address: str, wanted, seconds: float = 6) -> Neighbour | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = entry(ns, address)
        if found is not None and wanted(found):
            return found
        time.sleep(0.05)
    pytest.fail(f"{address}: {entry(ns, address)}")


def index_of(ns: str) -> int:
    return netns.run_in(ns, query.link, "v0").index


@pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::2"])
def test_a_stale_neighbour_becomes_reachable(pair, address):
    near, _ = pair
    shell(near, f"ip neigh replace {address} lladdr {FIRST} dev v0 nud stale")
    time.sleep(0.5)
    assert entry(near, address).state == "stale", "nothing probes it by itself"
    assert netns.run_in(near, keep_alive, [(index_of(near), address)]) == 1
    assert wait_for(near, address, lambda item: item.state == "reachable").mac.hex(":") == FIRST


@pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::2"])
def test_a_replaced_next_hop_is_found(pair, address):
    near, far = pair
    shell(near, f"ip neigh replace {address} lladdr {FIRST} dev v0 nud stale")
    shell(far, f"sysctl -qw net.ipv4.conf.v1.arp_notify=0; ip link set v1 address {SECOND}")
    shell(near, f"ip neigh replace {address} lladdr {FIRST} dev v0 nud stale")  # whatever v1 announced is undone
    index = index_of(near)

    def found_anew(item: Neighbour) -> bool:
        netns.run_in(near, keep_alive, [(index, address)])
        return item.usable and item.mac.hex(":") == SECOND

    found = wait_for(near, address, found_anew, 12)
    assert found.state in ("reachable", "stale", "delay")


def test_permanent_and_noarp_entries_stay_as_they_are(pair):
    near, _ = pair
    shell(near, f"ip neigh replace 10.0.0.2 lladdr {SECOND} dev v0 nud permanent")
    shell(near, f"ip neigh replace 10.0.0.3 lladdr {SECOND} dev v0 nud noarp")
    index = index_of(near)
    assert netns.run_in(near, keep_alive, [(index, "10.0.0.2"), (index, "10.0.0.3")]) == 0
    netns.run_in(near, resolve, index, "10.0.0.2")
    time.sleep(1.5)
    assert (entry(near, "10.0.0.2").state, entry(near, "10.0.0.2").mac.hex(":")) == ("permanent", SECOND)
    assert (entry(near, "10.0.0.3").state, entry(near, "10.0.0.3").mac.hex(":")) == ("noarp", SECOND)


@pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::2"])
def test_an_unknown_next_hop_is_resolved(pair, address):
    near, _ = pair
    shell(near, "ip neigh flush dev v0")
    netns.run_in(near, resolve, index_of(near), address)
    assert wait_for(near, address, lambda item: item.usable).mac.hex(":") == FIRST


def test_a_next_hop_that_is_not_there_does_not_become_usable(pair):
    near, _ = pair
    netns.run_in(near, resolve, index_of(near), "10.0.0.77")
    time.sleep(1)
    found = entry(near, "10.0.0.77")
    assert found is None or not found.usable


def test_entries_of_gone_or_dead_devices_are_left_out(pair):
    near, _ = pair
    index = index_of(near)
    shell(near, f"ip neigh replace 10.0.0.2 lladdr {FIRST} dev v0 nud stale")
    assert netns.run_in(near, keep_alive, [(4711, "10.0.0.2"), (index, "10.0.0.2")]) == 1
    with pytest.raises(KernelError, match="on interface 4711"):
        netns.run_in(near, resolve, 4711, "10.0.0.2")


def test_one_that_fails_keeps_no_other_from_being_asked_for(pair, monkeypatch):
    near, _ = pair
    index, use = index_of(near), neighbour._use
    beyond = ["10.0.0.2", "2001:db8::2"]
    for address in beyond:
        shell(near, f"ip neigh replace {address} lladdr {FIRST} dev v0 nud stale")

    def full_for_two(netlink, index: int, address: str) -> bool:
        if address.startswith("10.0.0.9"):
            # what the kernel says when its table is full, whose size is the whole host's
            raise KernelError(f"resolve {address} on v0", errno.ENOBUFS)
        return use(netlink, index, address)

    monkeypatch.setattr(neighbour, "_use", full_for_two)
    failing = ["10.0.0.91", "10.0.0.92"]
    with pytest.raises(KernelError, match=r"resolve 10\.0\.0\.91 on v0"):
        netns.run_in(near, keep_alive, [(index, address) for address in failing + beyond])
    for address in beyond:
        assert wait_for(near, address, lambda item: item.state == "reachable")
