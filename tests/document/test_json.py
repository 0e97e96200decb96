"""JSON, read: names that are given twice, and what is no JSON."""

import time

import msgspec
import pytest

from document.texts import refused
from hopline.config import Forward, Intent
from hopline.document import read_document
from hopline.document.json import objects, parsed, repeats


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", ":1: not JSON: it ends too soon: give all of it"),
        (b'{"forward": [\n\n', ":1: not JSON: it ends too soon: give all of it"),
        (b'{"forward": [\n  {"to": "a"},\n]}', ":3: not JSON: trailing comma in array in column 1: write it as JSON"),
        (b'{"a": NaN}', ": not JSON: the constant NaN is no value: write it as JSON"),
        (b"{} x", ":1: not JSON: trailing characters in column 5: write it as JSON"),
        (b'{"a": "\xff"}', ": not JSON: not UTF-8: send it as UTF-8"),
        (
            b'{"forward": [{"to": "\\ud800"}]}',
            ": not JSON: half a surrogate pair, as \\ud800 alone: write the character",
        ),
        (b"[" * 5000, ": not JSON: nested too deeply: write objects of plain values"),
        (b'{"forwards": ' + b"9" * 5000 + b"}", ": not JSON: a number that is too long"),
    ],
)
def test_what_is_no_json_is_said_in_one_line(data, said):
    (line,), count = refused(read_document, data, "fw.json", name="fw.json")
    assert line.startswith(f"fw.json{said}")
    assert count == 1


def test_what_is_right_comes_as_its_type():
    value = parsed(b'{"forward": [{"to": "10.0.0.5", "via": "10.0.0.1"}]}', Intent, "body")
    assert value == Intent(forward=(Forward("10.0.0.5", via="10.0.0.1"),))
    assert parsed(b'{"forward": 5}', Intent, "body") == {"forward": 5}


def test_names_that_are_given_twice_are_kept_in_mind():
    value = objects(b'{"a": 1, "b": {"c": 1, "c": 2, "d": 3}, "a": 3}', "body")
    assert value == {"a": 3, "b": {"c": 2, "d": 3}}
    assert value.repeated == ("a",)
    assert value["b"].repeated == ("c",)


@pytest.mark.parametrize(
    ("data", "doubtful"),
    [
        (b'{"to":"a","via":"b"}', False),
        (b'{"to":"a","dev":null,"src_mac":null,"dst_mac":null,"via":"b"}', False),
        (b'[{"to":"a","dev":null,"src_mac":null,"dst_mac":null,"via":"b"}]', False),
        (b'{"to":"a","via":"b","dev":null, "src_mac": null}', True),
        (b'{"to":"a","via":null,"via":"b"}', True),
        (b'{"to":"a","via":"b","dev":null,"dev":null}', True),
        (b'{"to":"a","via":"b","via":"b"}', True),
        (b'{"to":"a","via":"b","to":"c"}', True),
        (b'{"to":"a","via":"b","dev":"dev"}', False),
        (b'{"to":"a","v\\u0069a":"b"}', True),
    ],
)
def test_what_may_repeat_a_name_is_looked_at_more_closely(data, doubtful):
    entries = msgspec.json.decode(data, type=Forward | list[Forward])
    assert repeats(data, Forward, entries if isinstance(entries, list) else [entries]) is doubtful


@pytest.mark.parametrize("between", [b",", b"\n"], ids=["list", "lines"])
def test_a_name_given_twice_is_found_whichever_entries_have_it_once_or_not_at_all(between):
    hop = b'"dev":null,"src_mac":null,"dst_mac":null,"via":"10.0.0.2"'
    lines = [b'{"to":"10.0.%d.%d",%s}' % (*divmod(number, 256), hop) for number in range(10_000)]
    right = between.join(lines)
    entries = msgspec.json.decode(b"[%s]" % right.replace(b"\n", b","), type=list[Forward])
    assert not repeats(right, Forward, entries)
    # as many names as before
    lines[5_000] = lines[5_000].replace(b'"dev":null', b'"dev":null,"dev":null')
    lines[7_000] = lines[7_000].replace(b'"dev":null,', b"")
    assert repeats(between.join(lines), Forward, entries)


def test_an_object_of_many_names_is_read_in_time_that_grows_with_it():
    names = 40_000
    data = b"{" + b",".join(b'"%d":1' % number for number in range(names)) + b',"39999":2}'
    began = time.thread_time()
    assert objects(data, "body").repeated == ("39999",)
    assert time.thread_time() - began < 2  # it was 16, and four times that for twice as many
