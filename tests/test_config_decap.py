"""What makes an entry of decap right, and what tells it from others."""

import pytest

from hopline.config import Decap, canonical_decap_key, checked_decap, decaps_together
from hopline.errors import InvalidInput


@pytest.mark.parametrize(
    ("written", "spelled", "key"),
    [
        (Decap("10.0.0.1", "any"), Decap("10.0.0.1", "any"), "10.0.0.1 ipip from any"),
        (Decap("10.0.0.1", "0.0.0.0/0"), Decap("10.0.0.1", "any"), "10.0.0.1 ipip from any"),
        (Decap("10.0.0.1", "10.1.0.9/32"), Decap("10.0.0.1", "10.1.0.9"), "10.0.0.1 ipip from 10.1.0.9"),
        (Decap("10.0.0.1", "128.0.0.0/1"), Decap("10.0.0.1", "128.0.0.0/1"), "10.0.0.1 ipip from 128.0.0.0/1"),
        (Decap("2001:db8::1", "::/0"), Decap("2001:db8::1", "any"), "2001:db8::1 ipip from any"),
        (
            Decap("2001:DB8::1", "2001:DB8:1::/48", "gue", 7000),
            Decap("2001:db8::1", "2001:db8:1::/48", "gue", 7000),
            "2001:db8::1 gue from 2001:db8:1::/48",
        ),
    ],
    ids=str,
)
def test_an_entry_has_one_spelling_and_a_key(written, spelled, key):
    assert checked_decap(written) == spelled
    assert checked_decap(spelled) is spelled
    assert spelled.key == key
    assert canonical_decap_key(key) == key
    assert canonical_decap_key(f"{written.local} {written.encap} from {written.from_}") == key


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Decap("10.0.0.0/24", "any"), ["local: 10.0.0.0/24 is a prefix: give one address"]),
        (Decap("224.0.0.1", "any"), ["local: 224.0.0.1 is multicast: give a unicast address"]),
        (
            Decap("10.0.0.1", "all"),
            ["from: all is not an IP address: give an address, a prefix such as 10.10.3.0/24, or any"],
        ),
        (
            Decap("10.0.0.1", "10.1.0.9/24"),
            ["from: 10.1.0.9/24 has host bits set: give an address, a prefix such as 10.10.3.0/24, or any"],
        ),
        (
            Decap("10.0.0.1", "127.0.0.0/8"),
            ["from: 127.0.0.0/8 is loopback: give an address, a prefix such as 10.10.3.0/24, or any"],
        ),
        (Decap("10.0.0.1", "2001:db8::/32"), ["from: 2001:db8::/32 is not IPv4 as 10.0.0.1 is: give IPv4, or any"]),
        (Decap("10.0.0.1", "::/0"), ["from: ::/0 is not IPv4 as 10.0.0.1 is: give IPv4, or any"]),
        (
            Decap("2001:db8::1", "::ffff:10.0.0.0/104"),
            ["from: ::ffff:a00:0/104 has IPv4-mapped addresses: give an address, a prefix such as"],
        ),
        (Decap("10.0.0.1", "any", "gre"), ["encap: gre is none of these: use one of ipip, gue"]),
        (
            Decap("10.0.0.1", "any", gue_port=7000),
            ["gue_port: given with encap ipip, which has no port: give encap gue, or leave it out"],
        ),
        (
            Decap("x", "y", "z", 0),
            ["local: x is", "from: y is", "encap: z is", "gue_port: 0 is out of range"],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_cannot_be_names_its_fields(wrong, said):
    with pytest.raises(InvalidInput) as caught:
        checked_decap(wrong, "decap[2].")
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == len(said)
    for line, begins in zip(lines, said, strict=True):
        assert line.startswith(f"decap[2].{begins}")
        assert "\n" not in line


def test_what_is_no_key_says_how_one_is_written():
    for text in ("", "10.0.0.1", "10.0.0.1 from any", "10.0.0.1 gre from any", "10.0.0.1 ipip to any", "a b c d e"):
        with pytest.raises(InvalidInput, match="give LOCAL ipip from PREFIX, or any for the prefix"):
            canonical_decap_key(text)


def test_there_is_room_for_so_many():
    def together(entries):
        by_key = {entry.key: entry for entry in entries}
        return [str(error) for _, error in decaps_together(by_key, by_key)]

    ports = [Decap("10.0.0.1", f"10.1.0.{n}", "gue", 6080 + n) for n in range(9)]
    assert together(ports[:8]) == []
    assert together(ports) == ["gue_port: 9 ports of GUE: there is room for 8"]
    addresses = [Decap(f"10.0.{n >> 8}.{n & 255}", "any") for n in range(257)]
    assert together([*addresses[:256], *(Decap(f"2001:db8::{n:x}", "any") for n in range(1, 200))]) == []
    assert together(addresses) == ["local: too many addresses of one family: there is room for 256"]
    pairs = [Decap("10.0.0.1", f"10.1.{n >> 8}.{n & 255}") for n in range(16_385)]
    assert together(pairs[1:]) == []
    assert together(pairs) == ["from: 16,385 pairs of addresses: there is room for 16,384"]
