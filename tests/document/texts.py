"""Intents, and the texts that say them, for the tests of documents."""

import pytest
from hypothesis import strategies as st

from hopline.config import Forward, Intent, Interface
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
def intents(draw):
    """A whole intent."""
    names = draw(st.lists(devices, unique=True, max_size=4))
    modes = st.sampled_from(["auto", "native", "generic"])
    interfaces = [Interface(name, draw(modes), draw(st.booleans())) for name in names]
    return Intent(tuple(interfaces), tuple(draw(forward_lists())))


def refused(function, *arguments, name="fw.toml"):
    """Call, and return the refusal as the lines that an operator reads, with how many values were wrong."""
    with pytest.raises(InvalidInput) as caught:
        function(*arguments)
    lines = [describe(problem, name) for problem in caught.value.problems]
    assert all("\n" not in line and len(line) < 400 for line in lines)
    return lines, caught.value.count
