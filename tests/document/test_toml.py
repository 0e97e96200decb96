"""TOML, read: the quick way reads what the standard library reads, and what is no TOML is refused in one line."""

import io
import time
import tomllib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from document.texts import intents, refused
from hopline.document import read_document, write_toml
from hopline.document.toml import parsed
from hopline.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\na = 2\n", ":2: not TOML: a key or table that is there already"),
        ('[[forward]]\nto = "a"\nto = "b"\n[[forward]]', ":3: not TOML: a key or table that is there already"),
        ("[a]\n\n[a]", ":3: not TOML: a table that is there already in column 3"),
        ("[forward]\n[[forward]]\n", ":2: not TOML: a key or table that is there already in column 10: give each key"),
        ("a={b=1,b=2}", ":1: not TOML: a key that is there already in column 11: give each key once"),
        ("\nto = 10.0.0.5\n", ":2: not TOML: something follows the value in column 10: text goes in quotes, as dev"),
        ("dst_mac = 08:00:27:f2:cb:f9\n", ":1: not TOML: something follows the value in column 19: text goes in quo"),
        ("dev = eth0\n", ':1: not TOML: no value in column 7: text goes in quotes, as dev = "enp0s9"'),
        ('[[forward]]\nto = "10.0.0.5\ndev = "x"', ":2: not TOML: a quote that is not closed on its line in column 15"),
        ("[[forward]\n", ":1: not TOML: a table's name that is not closed in column 10: write [[forward]]"),
        ("x = '''a\n\n\n", ":1: not TOML: a quote that is not closed: close it"),
        ("x = [1,\n2\n", ":2: not TOML: a list that is not closed: close it with ]"),
        ("= 3", ":1: not TOML: neither a key nor a table in column 1: write key = value, or [[forward]]"),
        ('to "a"', ":1: not TOML: a key without = in column 4: write key = value"),
        (r'x = "\q"', r":1: not TOML: a \ that means nothing in column 8: write \\ for a \ ".rstrip()),
        ("x = " + "[" * 3000, ": not TOML: nested too deeply: write tables of plain values"),
        ("x = " + "9" * 5000, ": not TOML: a number that is too long: no value here is that long"),
    ],
)
def test_what_is_no_toml_is_said_in_one_line(text, said):
    (line,), count = refused(read_document, text.encode(), "fw.toml")
    assert line.startswith(f"fw.toml{said}")
    assert count == 1


def test_what_is_no_text_is_said_with_its_line():
    lines, _ = refused(read_document, b"a = 1\n# \xff\n", "fw.toml")
    assert lines == ["fw.toml:2: byte 0xff is not UTF-8: save it as UTF-8"]


def plain(value):
    """What was read, as plain objects."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def without_nulls(entry):
    return {name: value for name, value in entry.items() if value is not None} if isinstance(entry, dict) else entry


PIECES = [
    "\n",
    '"',
    "\\",
    "#",
    "=",
    "[",
    "]]",
    "[[forward]]\n",
    'to = "a"\n',
    "'''",
    '"""',
    " ",
    "x",
    "\r",
    "\x00",
    "é",
]


@given(intents(), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(["", *PIECES])), max_size=2))
def test_the_quick_way_reads_what_the_standard_library_reads(intent, edits):
    out = io.StringIO()
    write_toml(intent, out)
    text = out.getvalue()
    for where, cut, put in edits:
        at = int(where * len(text))
        text = text[:at] + put + text[at + cut :]
    text = text.replace("\r\n", "\n")
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with pytest.raises(InvalidInput):
            parsed(text)
        return
    got = parsed(text)
    if got == expected:
        return
    got["forward"] = [without_nulls(plain(entry)) for entry in got["forward"]]
    assert got == expected


PLAIN = [
    '[[service]]\n  name = "web" # the one\n\n  port=80\n',
    '  [[service.backend]]\n  address = "10.0.0.1"\n  weight = 0\n',
    '[[service.backend]]\naddress = "ü"\n# c\n',
    "[[forward]]\n",
    '[[forward]]\nto = "10.0.0.1"\nvia = "10.0.0.2"\n',
    "[[a.b]]\nx = 1.50\n",
    "[[a]]\nb = true\n",
    "[[a]]\nx = 007\n",
    "[[a]]\nx = -1\n",
    "[[a]]\nx = 1\nx = 1\n",
    "[a]\n",
    "[[ a ]]\n",
    "x = 1\n",
    "\n",
    "# [[a]]\n",
    'y = "\t"\n',
    'y = "\x7f"\n',
    "y = 'z'\n",
    "y = 10.\n",
    "y = 12345678901234567890\n",
    "y = [1]\n",
    'y = "a" "b"\n',
    '"y" = 1\n',
    "y.z = 1",
]


@given(st.lists(st.sampled_from(PLAIN), max_size=8), st.booleans())
def test_what_is_plain_is_read_as_the_standard_library_reads_it(pieces, cut):
    text = "".join(pieces)[: -1 if cut else None]
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with pytest.raises(InvalidInput):
            parsed(text)
        return
    got = parsed(text)
    if "forward" in got and isinstance(got["forward"], list):
        got["forward"] = [without_nulls(plain(entry)) for entry in got["forward"]]
    assert got == expected


def test_a_head_that_is_not_one_does_not_mislead_the_quick_way():
    entry = '[[forward]]\nto = "10.0.0.5"\nvia = "10.0.0.1"\n'
    for head in ("x = '''\n", 'x = """\n', "x = [\n", "[[forward]]\n", "forward = []\n", "[forward]\n", "y = 1\n"):
        for tail in ("", "'''\n", "]\n", '"""\n'):
            text = head + entry + tail
            try:
                expected = tomllib.loads(text)
            except ValueError:
                with pytest.raises(InvalidInput):
                    parsed(text)
            else:
                assert [without_nulls(plain(row)) for row in parsed(text).get("forward", [])] == expected.get(
                    "forward", []
                )


@pytest.mark.parametrize("text", ["a{} = 1", "[a{}]", "[[a{}]]", "x = {{a{} = 1}}", " 'a'{} = 1"])
def test_a_key_of_many_parts_is_refused_at_once(text):
    began = time.thread_time()
    (line,), _ = refused(parsed, "# a.b\n" + text.format(" . b" * 20_000))
    assert line == "fw.toml:2: not TOML: a key of too many parts: write tables of plain values"
    assert time.thread_time() - began < 2
    assert parsed(text.format(".b" * 60))
