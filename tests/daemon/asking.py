"""One request to a door, over a unix socket or TCP."""

import http.client
import json
import socket


class Connection(http.client.HTTPConnection):
    """HTTP over a socket that `connected` makes."""

    def __init__(self, connected, timeout=20):
        super().__init__("localhost", timeout=timeout)
        self.connected = connected

    def connect(self):
        self.sock = self.connected()


def unix(path, timeout=20):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    sock.connect(str(path))
    return sock


def exchange(connected, method, target, body=None, headers=None):
    """Status, headers, and the JSON of the answer."""
    connection = Connection(connected)
    try:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read() or b"null")
    finally:
        connection.close()


def ask(doors, method, target, body=None, *, door="admin.sock", raw=False, headers=None):
    data = body if raw or body is None else json.dumps(body)
    status, _, answer = exchange(lambda: unix(doors.run / door), method, target, data, headers)
    return status, answer


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def received(sock):
    """All that the other side has to say; a reset is an end too."""
    parts = []
    try:
        while part := sock.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)
