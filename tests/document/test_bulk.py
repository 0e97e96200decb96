"""Forwards by the million: as they arrive, in any pieces, right or wrong."""

import contextlib
import csv
import io
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from document.texts import MAC, forward_lists, refused
from hopline.config import Forward, NextHop, checked_forwards
from hopline.document import MOST_COUNTED, BulkReader, read_document
from hopline.errors import InvalidInput, InvalidInputs

COLUMNS = ["to", "dev", "src_mac", "dst_mac", "via"]


def load(format, data, cuts=()):
    reader = BulkReader(format)
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        reader.feed(data[start:end])
    return reader.finish()


@st.composite
def csv_texts(draw):
    """Entries, and a CSV text of them as a spreadsheet or a script writes it."""
    entries = draw(forward_lists(min_size=1))
    columns = draw(st.permutations(COLUMNS))
    out = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.DictWriter(out, columns, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
    writer.writeheader()
    for entry in entries:
        writer.writerow({name: getattr(entry, name) or "" for name in columns})
        out.write(draw(st.sampled_from(["", "", "\n", "  \r\n"])))
    text = out.getvalue()
    return entries, (text.rstrip("\r\n") if draw(st.booleans()) else text)


def cuts_of(draw, data):
    return sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))


@given(st.data())
def test_csv_in_any_order_and_any_pieces_says_the_same(data):
    entries, text = data.draw(csv_texts())
    raw = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()
    assert load("csv", raw, cuts_of(data.draw, raw)) == {entry.to: NextHop.of(entry) for entry in entries}


@given(st.data())
def test_json_lines_in_any_pieces_say_the_same(data):
    entries = data.draw(forward_lists(min_size=1))
    lines = []
    for entry in entries:
        given = {name: getattr(entry, name) for name in data.draw(st.permutations(COLUMNS))}
        if data.draw(st.booleans()):
            given = {name: value for name, value in given.items() if value is not None}
        lines.append(json.dumps(given, ensure_ascii=data.draw(st.booleans())))
        lines += [""] * data.draw(st.sampled_from([0, 0, 1]))
    raw = data.draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode()
    assert load("jsonl", raw, cuts_of(data.draw, raw)) == {entry.to: NextHop.of(entry) for entry in entries}


values = st.sampled_from(["10.0.0.5", "10.0.0.6/32", "10.0.0.6", "x", "", "eth0", MAC, "fe80::1", '"', "\xff"])


@given(st.lists(st.lists(values, min_size=5, max_size=5), min_size=1, max_size=12))
def test_right_and_wrong_are_told_apart_as_of_a_list(rows):
    rows = [[cell.replace('"', "q") for cell in row] for row in rows if any(row)]
    text = "\n".join([",".join(COLUMNS), *(",".join(row) for row in rows)])
    entries = [Forward(*(cell or None for cell in row)) for row in rows]
    try:
        expected = checked_forwards([entry for entry in entries if entry.to is not None])
        right = bool(entries) and all(entry.to is not None for entry in entries)
    except InvalidInput:
        right = False
    if right:
        assert load("csv", text.encode()) == {entry.to: NextHop.of(entry) for entry in expected}
    else:
        with pytest.raises(InvalidInput):
            load("csv", text.encode())


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]))
def test_no_bytes_make_it_fall_over(data, format):
    for raw in (data, b"to,via\n" + data, b'{"to":"10.0.0.5","via":"10.0.0.1"}\n' + data):
        with contextlib.suppress(InvalidInput):
            load(format, raw)


def test_wrong_lines_are_named_with_line_entry_field_and_value():
    text = (
        "via,to\n10.0.0.1,10.0.0.5\r\n\n10.0.0.1,10.0.0.5/32\n10.0.0.1\n"
        '"10.0.0.1,10.0.0.7\n1,10.0.0.6,3\n,\n,10.0.0.8\n'
        '"10.0.0.1", "10.0.0.9"\n10.0.0.1,10.0.0.8\nx,10.0.0.9\n'
    )
    lines, count = refused(load, "csv", text.encode(), name="fw.csv")
    missing = "give dev and dst_mac, or via"
    assert lines == [
        "fw.csv:4: forward[1] (10.0.0.5/32): to: 10.0.0.5 is also on line 2: give each destination once",
        "fw.csv:5: forward[2]: 1 cell where the header has 2: leave a cell empty for what is absent",
        "fw.csv:6: forward[3]: a quote that is not closed, or not around the whole cell: close it",
        "fw.csv:7: forward[4] (10.0.0.6): 3 cells where the header has 2: leave a cell empty for what is absent",
        "fw.csv:8: forward[5]: to: missing: each forward has one",
        f"fw.csv:9: forward[6] (10.0.0.8): dev: missing for 10.0.0.8: {missing}",
        f"fw.csv:9: forward[6] (10.0.0.8): dst_mac: missing for 10.0.0.8: {missing}",
        "fw.csv:11: forward[8]: to: 10.0.0.8 is also on line 9: give each destination once",
        "fw.csv:12: forward[9] (10.0.0.9): via: x is not an IP address: give an IPv4 or IPv6 address, such as "
        "10.10.3.5 or 2001:db8::5",
        "fw.csv:12: forward[9]: to: 10.0.0.9 is also on line 10: give each destination once",
    ]
    assert count == len(lines)


def test_wrong_json_lines_are_named_too():
    good = b'{"to":"10.0.0.5","via":"10.0.0.1"}\n'
    text = (
        good + b'\n{"to":"10.0.0.5","dst_mac":5}\n{"to":\n[]\n{}{}\n{"to":"10.0.0.9","via":"10.0.0.1","via":"a"}\n\xff'
    )
    lines, count = refused(load, "jsonl", text, name="fw.jsonl")
    rfc = "write it as JSON (RFC 8259)"
    assert lines == [
        "fw.jsonl:3: forward[1] (10.0.0.5): dst_mac: 5 is a number: write text in quotes",
        "fw.jsonl:3: forward[1]: to: 10.0.0.5 is also on line 1: give each destination once",
        f"fw.jsonl:4: forward[2]: not JSON: expecting value in column 7: {rfc}",
        "fw.jsonl:5: forward[3]: a list: write a table of to, dev, src_mac, dst_mac and via",
        f"fw.jsonl:6: forward[4]: not JSON: extra data in column 3: {rfc}",
        "fw.jsonl:7: forward[5] (10.0.0.9): via: a is not an IP address: give an IPv4 or IPv6 address, such as "
        "10.10.3.5 or 2001:db8::5",
        "fw.jsonl:7: forward[5] (10.0.0.9): via: given twice: give each field once",
        "fw.jsonl:8: forward[6]: not JSON: not UTF-8: send it as UTF-8",
    ]
    assert count == len(lines)
    # of lines that are read all at once too
    (twin,), _ = refused(load, "jsonl", good + good, name="fw.jsonl")
    assert twin.startswith("fw.jsonl:2: forward[1]: to: 10.0.0.5 is also on line 1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": no entry: give at least one forward"),
        ("\n\n", ": no entry: give at least one forward"),
        ("to,via\n", ": no entry: give at least one forward"),
        (
            "10.0.0.5,eth0\n",
            ":1: header: 10.0.0.5 is no column of forwards: begin with a line of column names, as to,dev",
        ),
        ("\nto;via\n", ":2: header: to;via is no column of forwards: begin with"),
        ("to,via,to\n", ":1: header: to is there twice: give each column once"),
        ("dev,via\n", ":1: header: no column to: begin with"),
        ('\n"to\n', ":2: header: a quote that is not closed, or not around the whole cell: close it"),
        ("to,via\n" + "x" * 70_000, ":2: a line of more than 65536 bytes: put one entry on a line"),
    ],
)
def test_what_has_no_entries_is_refused(text, said):
    (line,), _ = refused(load, "csv", text.encode(), name="fw.csv")
    assert line.startswith(f"fw.csv{said}")


def test_what_is_no_character_is_refused_and_can_be_said():
    for format, data in (("csv", b"to,via\n\xff,10.0.0.1\n"), ("jsonl", b'{"to":"\\ud800","via":"10.0.0.1"}')):
        with pytest.raises(InvalidInput) as caught:
            load(format, data)
        assert (caught.value.field, caught.value.key) == ("forward[0].to", None)
        assert "is not an IP address" in str(caught.value).encode().decode()


def test_a_header_that_cannot_be_is_refused_before_more_is_sent():
    reader = BulkReader("csv")
    with pytest.raises(InvalidInput, match="no column"):
        reader.feed(b"address,device\n")


def test_it_counts_on_past_twenty_and_gives_up_past_a_thousand():
    reader = BulkReader("csv")
    reader.feed(b"to,via\n" + b"x,10.0.0.1\n" * MOST_COUNTED)
    assert reader.entries == MOST_COUNTED
    with pytest.raises(InvalidInputs) as caught:
        reader.feed(b"x,10.0.0.1\n" * 5)
    assert (len(caught.value.problems), caught.value.count) == (20, MOST_COUNTED + 1)
    assert caught.value.problems[19].line == 21


def test_equal_next_hops_are_one_object_and_entries_are_counted():
    reader = BulkReader("csv")
    reader.feed(b"to,dev,dst_mac\n")
    for n in range(1000):
        reader.feed(f"10.0.{n >> 8}.{n & 255},eth{n & 1},{MAC if n & 2 else MAC.upper()}\n".encode())
    assert reader.entries == 1000
    hops = reader.finish()
    assert len({id(hop) for hop in hops.values()}) == 2
    assert list(hops)[:2] == ["10.0.0.0", "10.0.0.1"]


def test_more_next_hops_than_are_remembered_are_all_right():
    rows = [
        f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},a,02:00:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
        for n in range(70_000)
    ]
    entries = read_document("\n".join(["to,dev,dst_mac", *rows, ""]).encode(), "fw.csv").wanted.of("forward")
    assert len(entries) == len(set(entries.values())) == 70_000
    assert entries["10.1.17.111"].dst_mac == "02:00:00:01:11:6f"


def test_a_million_entries_are_a_matter_of_seconds():
    lines = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},a,,{MAC}" for n in range(1 << 17)]
    data = "\n".join(["to,dev,src_mac,dst_mac", *lines]).encode()
    started = time.perf_counter()
    assert len(load("csv", data)) == 1 << 17
    # 0.13 s; a machine that is busy takes longer, a reader that is wrong takes ten times as long
    assert time.perf_counter() - started < 2
