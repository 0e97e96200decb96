"""One problem of a document, in one line."""

import pytest

from hopline.document.problem import describe, path_of, placed
from hopline.errors import InvalidInput

MAC_DETAIL = "zz is not a MAC address"


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (
            InvalidInput("forward[3].dst_mac", MAC_DETAIL, "write six octets", line=17, key="10.0.0.5"),
            "fw.toml:17: forward[3] (10.0.0.5): dst_mac: zz is not a MAC address: write six octets",
        ),
        (InvalidInput("forward[3].to", "x is no address", key="x"), "fw.toml: forward[3]: to: x is no address"),
        (InvalidInput("forward[3]", "a list", "write a table", line=2), "fw.toml:2: forward[3]: a list: write a table"),
        (InvalidInput("forward[3].to", "missing", key=""), "fw.toml: forward[3]: to: missing"),
        (
            InvalidInput("service[0].backend[2].weight", "70000 is out of range", "give less", line=9, key="web"),
            "fw.toml:9: service[0] (web): backend[2].weight: 70000 is out of range: give less",
        ),
        (
            InvalidInput("service[0].backend[2]", "5 is a number", key="web"),
            "fw.toml: service[0] (web): backend[2]: 5 is a number",
        ),
        (InvalidInput("document", "not TOML", line=1), "fw.toml:1: not TOML"),
        (InvalidInput("body", "not JSON"), "fw.toml: not JSON"),
        (InvalidInput("header", "no column to", "add it", line=1), "fw.toml:1: header: no column to: add it"),
        (
            InvalidInput("forward[0].to", "no", key="a\nb" + "c" * 99),
            f"fw.toml: forward[0] ('a\\nb{'c' * 58}...'): to: no",
        ),
    ],
)
def test_a_problem_names_table_entry_field_value_and_what_would_do(problem, said):
    assert describe(problem, "fw.toml") == said


def test_a_field_s_way_is_read():
    assert path_of("forward[31].dst_mac") == ("forward", 31, "dst_mac")
    assert path_of("forward[0]") == ("forward", 0)
    assert path_of("forward[0].a.b]\n[3]") == ("forward", 0, "a.b]\n[3]")
    assert path_of("service[0].backend[2].weight") == ("service", 0, "backend", 2, "weight")
    assert path_of("service[0].backend[2]") == ("service", 0, "backend", 2)
    assert path_of("revision") == ("revision",)
    assert path_of("forward[x].to") == ("forward[x].to",)
    assert path_of("") == ("",)


def test_an_entry_s_refusal_becomes_its_document_s():
    error = placed(InvalidInput("dev", "missing", "give dev"), "forward", 2, 9, "10.0.0.5")
    assert (error.field, error.line, error.key, str(error)) == (
        "forward[2].dev",
        9,
        "10.0.0.5",
        "forward[2].dev: missing: give dev",
    )
    assert placed(InvalidInput("", "5 is a number"), "forward", 2, None, None).field == "forward[2]"
