"""The description of the API: whole, of the version it says, and true of what is routed."""

import json

import jsonschema_rs
import pytest

from daemon.asking import ask
from front_double import Doors
from hopline.daemon.api import openapi
from hopline.daemon.api.operations import OPERATIONS


@pytest.fixture(scope="module")
def document():
    return json.loads(openapi.text())


def valid(document, name, value):
    """Whether a value is what a component describes."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(schema).is_valid(value)


def test_it_is_served_by_every_door(tmp_path, document):
    with Doors(tmp_path / "run") as doors:
        for door in ("admin.sock", "view.sock"):
            assert ask(doors, "GET", "/openapi.json", door=door) == (200, document)


def test_every_operation_is_there_with_its_sentence(document):
    assert document["openapi"] == "3.1.0"
    for operation in OPERATIONS:
        said = document["paths"][operation.path][operation.method.lower()]
        assert said["summary"].endswith(".")
        assert "\n" not in said["summary"]
        assert {"200", "400", "404", "409"} <= set(said["responses"])
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names) == len(OPERATIONS) + 1
    for path, operations in document["paths"].items():
        for operation in operations.values():
            placed = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
            assert placed == {part.strip("{}") for part in path.split("/") if part.startswith("{")}


def test_every_reference_leads_somewhere(document):
    def references(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            for part in value.values():
                yield from references(part)
        elif isinstance(value, list):
            for part in value:
                yield from references(part)

    for reference in references(document):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


MAC = "08:00:27:f2:cb:f9"


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ({"to": "10.10.3.5", "via": "10.10.3.1"}, True),
        ({"to": "10.10.3.0/24", "dev": "eth0", "dst_mac": MAC.upper()}, True),
        ({"to": "::", "dev": "eth0", "dst_mac": MAC, "src_mac": None, "via": None}, True),
        ({"to": "1111:2222:3333:4444:5555:6666:255.255.255.255/128", "via": "fe80::1", "dev": "eth0"}, True),
        ({"to": "10.10.3.5"}, False),
        ({"via": "10.10.3.1"}, False),
        ({"to": "10.10.3.5", "dev": "eth0"}, False),
        ({"to": "10.10.3.5", "via": "10.10.3.1", "dst_mac": MAC}, False),
        ({"to": "10.10.3.5", "via": None}, False),
        ({"to": "10.10.3.0/024", "via": "10.10.3.1"}, False),
        ({"to": "host", "via": "10.10.3.1"}, False),
        ({"to": "fe80::1%eth0", "via": "10.10.3.1"}, False),
        ({"to": "10.10.3.5", "dev": "a/b", "dst_mac": MAC}, False),
        ({"to": "10.10.3.5", "dev": "a" * 16, "dst_mac": MAC}, False),
        ({"to": "10.10.3.5", "dev": "eth0", "dst_mac": "08-00-27-f2-cb-f9"}, False),
        ({"to": "10.10.3.5", "via": "10.10.3.1", "colour": "red"}, False),
        ({"to": 5, "via": "10.10.3.1"}, False),
    ],
    ids=str,
)
def test_a_forward_is_described_closely(document, value, right):
    assert valid(document, "Forward", value) is right
    assert valid(document, "Intent", {"forward": [value]}) is right


def test_the_other_types_are_described_closely(document):
    assert valid(document, "Interface", {"name": "eth0", "mode": "native"})
    for wrong in ({}, {"name": ""}, {"name": "eth0", "mode": "fast"}, {"name": "eth0", "bypass_policy": "yes"}):
        assert not valid(document, "Interface", wrong)
    assert not valid(document, "InterfaceChange", {})
    assert valid(document, "InterfaceChange", {"mode": "generic"})
    assert valid(document, "Flush", {"origin": "learned"})
    assert not valid(document, "Flush", {"origin": "operator"})
    assert not valid(document, "Intent", {"forwards": []})
