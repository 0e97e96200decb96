"""Programs at a device's ingress: where they go, who else is there, and what is left."""

import pytest

from hopline.kernel import netns
from hopline.kernel.netlink import tc
from hopline.kernel.object import BpfObject
from lab.net import sh, unique_tag

NAME = "hopline_test"
FOREIGN = ["bpf", "bytecode", "1,6 0 0 0,"]


@pytest.fixture
def place():
    """A namespace with devices one and two."""
    ns = f"hl-{unique_tag()}"
    netns.create(ns)
    try:
        sh(ns, "ip link add one index 11 type veth peer name two index 12")
        yield ns
    finally:
        netns.delete(ns)


@pytest.fixture(scope="module")
def program():
    import hopline.bpf

    with BpfObject(f"{hopline.bpf.__path__[0]}/check.bpf.o") as found:
        found.load()
        with found.program("hopline_check_in") as program:
            yield program.fd


def qdiscs(ns: str) -> str:
    return sh(ns, "tc qdisc show").stdout


def filters(ns: str, parent: list[str]) -> str:
    """Those of device one; tc calls a parent by its name or not as the last who came had it."""
    shown = sh(ns, ["tc", "filter", "show", "dev", "one", *parent]).stdout
    return shown.replace("filter ingress ", "filter ").replace("filter parent ffff: ", "filter ")


def test_it_comes_and_goes_with_what_it_needed(place, program):
    def body():
        tc.attach(11, program, NAME)
        tc.attach(12, program, NAME)
        tc.attach(12, program, "hopline_other")
        assert [one.index for one in tc.attached(NAME)] == [11, 12]
        assert (tc.detach(NAME, 12), tc.detach(NAME, 12)) == (1, 0)
        assert [one.index for one in tc.attached(NAME)] == [11]
        assert tc.detach(NAME) == 1
        assert "dev one" not in qdiscs(place)
        # another is still there, and goes by the name that says who made the qdisc
        assert qdiscs(place).count("clsact") == 1
        tc.detach("hopline_other")

    netns.run_in(place, body)


@pytest.mark.parametrize("kind", ["clsact", "ingress"])
@pytest.mark.parametrize("other", [FOREIGN, ["u32", "match", "u32", "0", "0"], []], ids=["bpf", "u32", "none"])
def test_what_others_have_there_stays(place, program, kind, other):
    parent = ["ingress"] if kind == "clsact" else ["parent", "ffff:"]
    sh(place, f"tc qdisc add dev one {'handle ffff: ' if kind == 'ingress' else ''}{kind}")
    if other:
        done = sh(
            place, ["tc", "filter", "add", "dev", "one", *parent, "protocol", "all", "prio", "1", *other], check=False
        )
        if done.returncode:
            pytest.skip(f"this kernel has no {other[0]} filters")
    before = filters(place, parent)

    def body():
        tc.attach(11, program, NAME)
        assert [one.name for one in tc.attached(NAME)] == [NAME]
        tc.detach(NAME)

    netns.run_in(place, body)
    assert filters(place, parent) == before
    assert kind in qdiscs(place)


def test_a_device_that_has_gone_has_nothing(place):
    assert netns.run_in(place, lambda: (tc.attached(NAME, 99), tc.detach(NAME, 99))) == ([], 0)
