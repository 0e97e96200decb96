"""The API does what /openapi.json says, and nothing that it forbids: requests made from it, sent to a real daemon.

The admin socket is asked right things and wrong ones; nothing that is wrong may be taken, and nothing may be a fault of
Hopline's own. The view socket is asked the same, and nothing may have changed.
"""

import base64
import contextlib
import json
import selectors
import socket
import threading
from collections import defaultdict

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

import hopline
from hopline.config import Backend, Decap, Service
from hopline.daemon.api import openapi
from hopline.daemon.api.operations import OPERATIONS
from hopline.errors import Refused
from lab.net import Daemon, Router
from lab.node import kernel_tables, xdp_id

RARE = {("POST", "/intent/confirm"), ("POST", "/forwards/load")}  # right in form, and nearly always refused
SHOWN = {(operation.method, operation.path) for operation in OPERATIONS if operation.view}
FRAME = base64.b64encode(bytes(64)).decode()
EXAMPLES = 8  # of each operation, beside those that schemathesis derives from each boundary
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
NEIGHBOUR = "10.2.0.2"
DEVICES = ["left", "right"]
DESTINATIONS = ["10.50.0.1", "10.61.0.0/16"]
NARROWER = {
    "address": {"enum": ["10.50.0.1", NEIGHBOUR]},
    "name": {"enum": DEVICES},
    "in": {"enum": DEVICES},
    "number": {"maximum": 3},
    "revision": {"maximum": 10},
    "confirm_within": {"maximum": 1.5},  # or it would keep out all that follows
}


SERVER = "10.2.0.2"
WEB = Service("web", "10.99.0.1", "80", "tcp", backend=(Backend(SERVER),))
# what a service, a backend and an entry of decap are made of here: of what does not go together there is one kind only
OF_THIS_HOST = {
    "Service": {
        "name": {"enum": ["alt", "web"]},
        "vip": {"enum": ["10.99.0.1", "10.99.0.2"]},
        "port": {"enum": [80, "80", "80-81", "any"]},
        "gue_port": {"const": 6080},
        "local": {"enum": [None, "10.2.0.1"]},
        "ring": {"enum": [251, 65537]},
        "own": {"const": "routed"},
        "own_dev": {"const": None},
        "check": {"enum": ["none", "icmp"]},
        "check_via": {"const": "backend"},
        "expect": {"enum": ["200", "200-399"]},
        "backend": {"type": "array", "items": {"$ref": "#/components/schemas/Backend"}, "maxItems": 1},
    },
    "Backend": {
        "address": {"enum": [SERVER, "10.2.0.3"]},
        "via": {"enum": [None, NEIGHBOUR]},
        "dst_mac": {"const": None},
        "dev": {"const": None},
    },
    "Decap": {
        "local": {"enum": ["10.1.0.1", "10.2.0.1"]},
        "from": {"enum": ["any", "10.2.0.0/24"]},
        "gue_port": {"const": 6080},
    },
}
OF_THIS_HOST["ServiceChange"] = {
    name: schema for name, schema in OF_THIS_HOST["Service"].items() if name not in ("name", "backend")
}
OF_THIS_HOST["BackendChange"] = {name: schema for name, schema in OF_THIS_HOST["Backend"].items() if name != "address"}
SERVICE_PATHS = {"name": {"enum": ["web"]}, "address": {"enum": [SERVER]}}
DECAP_QUERY = {"local": {"enum": ["10.1.0.1"]}, "from": {"enum": ["any"]}, "encap": {"const": "ipip"}}


class Proxy:
    """127.0.0.1:port as another way to a unix socket: schemathesis speaks TCP."""

    def __init__(self, path):
        self.path = str(path)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self.path)
            selector = selectors.DefaultSelector()
            for here, there in ((client, server), (server, client)):
                selector.register(here, selectors.EVENT_READ, there)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    key.data.sendall(data)


@pytest.fixture(scope="module")
def net():
    with Router() as router:
        router.pin_neighbours()
        yield router


@pytest.fixture(scope="module")
def one(net, tmp_path_factory):
    with Daemon(net.ns, tmp_path_factory.mktemp("contract") / "d") as daemon:
        daemon.call("interface", "add", "left")
        daemon.call("forward", "add", "10.50.0.1", "--via", NEIGHBOUR)
        yield daemon
        assert "Traceback" not in daemon.log.read_text(), daemon.log.read_text()


def description(*modes, narrower=False):
    """What a daemon serves; `narrower`: to what this host has, so that what is right in form mostly succeeds."""
    document = json.loads(openapi.text())
    if narrower:
        schemas = document["components"]["schemas"]
        schemas["Forward"]["properties"]["to"] = {"enum": DESTINATIONS}
        schemas["Forward"]["properties"]["dev"] = {"enum": [*DEVICES, None]}
        schemas["Forward"]["properties"]["via"] = {"enum": [NEIGHBOUR, None]}
        schemas["Interface"]["properties"]["name"] = {"enum": DEVICES}
        of_this_host = {"in": {"enum": ["left", None]}, "dst": {"enum": ["10.50.0.1", NEIGHBOUR]}}
        schemas["Question"] |= {"properties": of_this_host, "required": ["dst"]}
        del schemas["Question"]["anyOf"]
        frames = {"type": "array", "items": {"enum": [FRAME]}, "minItems": 1, "maxItems": 3}
        schemas["Batch"]["properties"] = {"in": of_this_host["in"], "frames": frames}
        for name, properties in OF_THIS_HOST.items():
            schemas[name]["properties"].update(properties)
        del schemas["Backend"]["anyOf"]
        for path, operations in document["paths"].items():
            narrower = NARROWER | (SERVICE_PATHS if path.startswith("/services") else {})
            narrower |= DECAP_QUERY if path == "/decaps" else {}
            for parameter in (one for operation in operations.values() for one in operation.get("parameters", ())):
                if parameter["name"] in narrower:
                    parameter["schema"].update(narrower[parameter["name"]])
                if parameter["name"] == "to":
                    parameter["schema"].get("items", parameter["schema"])["enum"] = DESTINATIONS
    found = schemathesis.openapi.from_dict(document)
    found.config.generation.update(modes=list(modes))
    return found


@schemathesis.serializer("text/csv", "application/x-ndjson")
def as_text(ctx, value):
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="replace")


@pytest.fixture(scope="module")
def admin(one):
    with Proxy(one.run_directory / "admin.sock") as proxy:
        yield proxy.url


@pytest.fixture(scope="module")
def view(one):
    with Proxy(one.run_directory / "view.sock") as proxy:
        yield proxy.url


quickly = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


# of these nothing can be wrong
BARE = [one.name for one in OPERATIONS if not one.parameters and one.body is None]


@description(GenerationMode.NEGATIVE).exclude(operation_id=[*BARE, "openapi"]).parametrize()
@quickly
def test_the_admin_socket_takes_nothing_wrong(admin, case):
    response = case.call(admin, timeout=20)
    case.validate_response(response, checks=[*CHECKS, unsupported_method])


@pytest.fixture(scope="module")
def done():
    """The statuses that each operation answered with."""
    return defaultdict(set)


def prepare(client, case):
    """Make it so that there is what a case asks about: cases before this one took it away."""
    if case.path.startswith("/explain") and "left" not in [state.name for state in client.interface.show()]:
        client.interface.add("left")
    if case.path == "/history/{number}/rollback":
        oldest = client.history()[-1].number
        case.path_parameters["number"] = str(int(case.path_parameters["number"]) + oldest - 1)
    more = {}
    if case.path.startswith("/services/"):
        more = {"service": (WEB,)}
    if (case.method, case.path) == ("DELETE", "/decaps"):
        more = {"decap": (Decap("10.1.0.1", "any"),)}
    if more:
        with contextlib.suppress(Refused):  # a change waits to be confirmed
            client.intent.apply(msgspec.structs.replace(client.intent.show(), **more))


@description(GenerationMode.POSITIVE, narrower=True).exclude(path="/detach").parametrize()
@quickly
def test_the_admin_socket_does_what_it_says(one, admin, done, case):
    prepare(hopline.connect(one.instance), case)
    response = case.call(admin, timeout=20)
    case.validate_response(response, checks=CHECKS)
    done[case.method, case.path].add(response.status_code)


def test_all_that_can_be_done_was_done(done):
    asked = {(operation.method, operation.path) for operation in OPERATIONS} - {("POST", "/detach")}
    assert set(done) - {("GET", "/openapi.json")} == asked
    assert {operation for operation in asked if 200 not in done[operation]} <= RARE


@pytest.fixture(scope="module")
def unchanged(net, one):
    """Whatever the view socket is asked: intent, history, kernel and daemon are afterwards what they were."""

    def everything():
        client = hopline.connect(one.instance)
        rows = client.forward.show(origin="operator"), client.intent.show()
        history = [(row.number, row.what) for row in client.history()]
        return client.status().pid, rows, history, kernel_tables(one), [xdp_id(net.ns, dev) for dev in DEVICES]

    before = everything()
    yield
    assert everything() == before


def only_shows(case, response):
    case.validate_response(response, checks=CHECKS)
    if case.method not in ("GET", "HEAD") and (case.method, case.path) not in SHOWN:
        assert response.status_code == 403


@description(GenerationMode.POSITIVE, narrower=True).parametrize()
@quickly
def test_the_view_socket_does_what_it_says_and_changes_nothing(unchanged, view, case):
    only_shows(case, case.call(view, timeout=20))


@description(GenerationMode.NEGATIVE).exclude(operation_id=[*BARE, "openapi"]).parametrize()
@quickly
def test_the_view_socket_takes_nothing_wrong(unchanged, view, case):
    only_shows(case, case.call(view, timeout=20))
