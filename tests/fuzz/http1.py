"""HTTP/1.1 (RFC 9112) read by the letter: what a stream of requests says, and whether answers to it are well formed.

The reader of requests lets pass all that a server may let pass, so that what it does not find was never asked for; what
is not plain it marks. The reader of answers lets nothing pass.
"""

import re
from dataclasses import dataclass

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([0-9])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(;[^\n]*)?\r?\n")
_ANSWER = re.compile(rb"HTTP/1\.1 ([1-5]\d\d)(?: [\t -~]*)?")


@dataclass(frozen=True)
class Request:
    """One whole request. `plain`: nobody could read it otherwise; `last`: nothing after it may be acted upon."""

    method: bytes
    target: bytes
    body: bytes
    plain: bool
    last: bool


def requests(data: bytes) -> tuple[list[Request], bool]:
    """The whole requests of a stream, and whether there is nothing else in it."""
    found: list[Request] = []
    while data and not (found and found[-1].last):
        one = _request(data)
        if one is None:
            return found, False
        request, data = one
        found.append(request)
    return found, True


def _request(data: bytes) -> tuple[Request, bytes] | None:
    end = _END.search(data)
    if end is None:
        return None
    head, rest = data[: end.start()], data[end.end() :]
    lines = re.split(rb"\r?\n", head)
    asked = _REQUEST.fullmatch(lines[0])
    headers: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and headers:
            headers[-1] = (headers[-1][0], headers[-1][1] + b" " + line.strip())
        elif (field := _HEADER.fullmatch(line)) is not None:
            headers.append((field[1].lower(), field[2]))
        else:
            return None
    if asked is None:
        return None
    lengths = {part.strip() for name, value in headers if name == b"content-length" for part in value.split(b",")}
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    hosts = sum(name == b"host" for name, _ in headers)
    said = {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
    odd = {b"expect", b"upgrade"} & {name for name, _ in headers} or not re.fullmatch(rb"[\t\r\n -~]*", head)
    odd = odd or head.count(b"\n") != head.count(b"\r\n") or b"\n " in head or b"\n\t" in head or end[0] != b"\r\n\r\n"
    odd = odd or hosts != 1 or asked[3] != b"1" or head.count(b"\r") != head.count(b"\r\n")
    body = _chunked(rest) if codings else _counted(rest, lengths)
    if codings and codings != [b"chunked"]:
        return None
    if body is None:
        return None
    octets, rest, canonical = body
    both = bool(codings and lengths)
    last = both or b"close" in said or (asked[3] == b"0" and b"keep-alive" not in said)
    plain = not odd and not both and canonical and said <= {b"close"}
    return Request(asked[1], asked[2], octets, plain, last), rest


def _counted(rest: bytes, lengths: set[bytes]) -> tuple[bytes, bytes, bool] | None:
    if not lengths:
        return b"", rest, True
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,1000}", next(iter(lengths))):
        return None
    size = int(next(iter(lengths)))
    return (rest[:size], rest[size:], True) if len(rest) >= size else None


def _chunked(rest: bytes) -> tuple[bytes, bytes, bool] | None:
    parts, canonical = [], True
    while (head := _CHUNK.match(rest)) is not None:
        size, rest = int(head[1], 16), rest[head.end() :]
        canonical &= head[2] is None and head[0].endswith(b"\r\n") and not head[0].strip().endswith((b" ", b"\t"))
        if not size:
            end = re.compile(rb"(?:[^\r\n][^\n]*\n)*?\r?\n").match(rest)
            return None if end is None else (b"".join(parts), rest[end.end() :], canonical and end[0] == b"\r\n")
        if rest[size : size + 2] != b"\r\n":
            return None
        parts.append(rest[:size])
        rest = rest[size + 2 :]
    return None


def answers(data: bytes, asked: list[Request]) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Status, headers and body of each answer, without those that only say to go on; AssertionError of a wrong one."""
    found: list[tuple[int, dict[bytes, bytes], bytes]] = []
    while data:
        head, ends, data = data.partition(b"\r\n\r\n")
        assert ends, f"cut short: {head!r}"
        first, *lines = head.split(b"\r\n")
        status = _ANSWER.fullmatch(first)
        assert status, first
        fields = [_HEADER.fullmatch(line) for line in lines]
        assert all(fields), head
        headers = {field[1].lower(): field[2] for field in fields}
        assert len(headers) == len(fields), head
        if status[1].startswith(b"1"):
            continue
        assert (b"content-length" in headers) != (b"transfer-encoding" in headers), head
        # what is refused at first sight is not known to be asked with HEAD
        of = asked[len(found)] if len(found) < len(asked) else None
        bodiless = data[:5] in (b"", b"HTTP/") and (of is None or of.method == b"HEAD")
        assert not (of and of.plain and of.method == b"HEAD") or bodiless, data
        if bodiless:
            body = b""
        elif b"content-length" in headers:
            size = int(headers[b"content-length"])
            assert len(data) >= size, "a body cut short"
            body, data = data[:size], data[size:]
        else:
            chunks = _chunked(data)
            assert chunks, data
            body, data, _ = chunks
        found.append((int(status[1]), headers, body))
    return found
