"""Intents, and the texts that say them, for the tests of documents."""

import pytest
from hypothesis import strategies as st

from hopline.config import Backend, Decap, Forward, Intent, Interface, Service
from hopline.document import describe
from hopline.errors import InvalidInput

MAC = "08:00:27:f2:cb:f9"

macs = st.integers(1, 2**40 - 1).map(lambda n: f"02:{n.to_bytes(5, 'big').hex(':')}")
devices = st.one_of(
    st.from_regex(r"[a-z][a-z0-9_.@-]{0,14}", fullmatch=True),
    st.text(
        st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/:"), min_size=1, max_size=3
    ),
).filter(lambda name: name not in (".", ".."))
hosts = st.integers(0x0B000000, 0x7EFFFFFF).map(lambda n: ".".join(map(str, n.to_bytes(4, "big"))))
prefixes = st.integers(0x0B0000, 0x7EFFFF).map(lambda n: ".".join(map(str, n.to_bytes(3, "big"))) + ".0/24")
hosts6 = st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}")


@st.composite
def forwards(draw, to):
    """An entry in canonical spelling."""
    if draw(st.booleans()):
        via = draw(hosts6 if ":" in to else hosts)
        return Forward(to, draw(st.none() | devices), via=via)
    return Forward(to, draw(devices), draw(st.none() | macs), draw(macs))


@st.composite
def forward_lists(draw, min_size=0):
    """Entries with destinations of their own."""
    tos = draw(st.lists(st.one_of(hosts, prefixes, hosts6), unique=True, min_size=min_size, max_size=8))
    return [draw(forwards(to)) for to in tos]


@st.composite
def backends(draw, address):
    """A backend in canonical spelling."""
    via = draw(hosts6 if ":" in address else hosts)
    way = draw(st.sampled_from([{}, {"via": via}, {"via": via, "dev": "eth0"}, {"dst_mac": MAC, "dev": "e"}]))
    return Backend(address, draw(st.integers(0, 65535) | st.just(1)), **way, drained=draw(st.booleans()))


@st.composite
def services(draw, name, vip):
    """A service in canonical spelling."""
    addresses = draw(st.lists((hosts6 if ":" in vip else hosts | hosts6).filter(lambda one: one != vip), unique=True,
                              max_size=4))  # fmt: skip
    rest = {
        "encap": st.sampled_from(["ipip", "gue"]),
        "ring": st.sampled_from([251, 65537, 1_048_573]),
        "seed": st.integers(0, 2**63 - 1),
        "idle": st.integers(1, 604_800),
        "check": st.sampled_from(["none", "tcp://:8080", "http://www.example.org/a?b", "udp://:53?send=%00&expect=x"]),
        "interval": st.floats(0.1, 3600) | st.just(2.0),
        "own": st.sampled_from(["routed", "on-wire"]),
        "affinity": st.sampled_from(["ring", "table"]),
    }
    said = {field: draw(values) for field, values in rest.items() if draw(st.booleans())}
    port = draw(st.sampled_from(["80", "80-81", "any", "1-65535"]))
    protocol = draw(st.sampled_from(["tcp", "udp", "both"]))
    servers = tuple(draw(backends(address)) for address in addresses)
    return Service(name, vip, port, protocol, **said, backend=servers)


@st.composite
def decaps(draw):
    """An entry of decap in canonical spelling."""
    local = draw(hosts | hosts6)
    source = draw(st.just("any") | (hosts6 if ":" in local else hosts | prefixes))
    gue = {"encap": "gue", "gue_port": draw(st.sampled_from([6080, 7000]))}
    return Decap(local, source, **draw(st.sampled_from([{}, gue])))


@st.composite
def intents(draw):
    """A whole intent."""
    vips = draw(st.lists(hosts | hosts6, unique=True, max_size=3))
    served = [draw(services(f"s-{place}", vip)) for place, vip in enumerate(vips)]
    taken_out = draw(st.lists(decaps(), unique_by=lambda decap: decap.key, max_size=3))
    names = draw(st.lists(devices, unique=True, max_size=4))
    modes = st.sampled_from(["auto", "native", "generic"])
    interfaces = [Interface(name, draw(modes), draw(st.booleans())) for name in names]
    return Intent(tuple(interfaces), tuple(draw(forward_lists())), tuple(served), tuple(taken_out))


def refused(function, *arguments, name="fw.toml"):
    """Call, and return the refusal as the lines that an operator reads, with how many values were wrong."""
    with pytest.raises(InvalidInput) as caught:
        function(*arguments)
    lines = [describe(problem, name) for problem in caught.value.problems]
    assert all("\n" not in line and len(line) < 400 for line in lines)
    return lines, caught.value.count
