"""Keys and values from words: `packets=5 bytes=7`, `next[1].mac=02:00:00:00:00:01`, `10.0.0.0/8`, `42`.

A struct is written field by field; a field that is not named keeps what it was. Nothing is cut or wrapped: what does
not fit is InvalidInput that names the field and what would do.
"""

import re
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_network

from hopline.errors import InvalidInput
from hopline.host.program.shapes import Array, Field, Prefix, Scalar, Shape, Struct
from hopline.spelling import shown

_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)
_QUAD = re.compile(r"[0-9]+(\.[0-9]+){3}", re.ASCII)
_MAC = re.compile(r"[0-9a-fA-F]{2}(?P<by>[:-])(?:[0-9a-fA-F]{2}(?P=by)){4}[0-9a-fA-F]{2}", re.ASCII)
_INDEX = re.compile(r"\[([0-9]{1,9})\]", re.ASCII)
_HEX = re.compile(r"(0[xX])?([0-9a-fA-F]{2})*", re.ASCII)
_ASSIGNED = re.compile(r"[A-Za-z_][A-Za-z0-9_.\[\]]*=|\[[0-9]+\][A-Za-z0-9_.\[\]]*=", re.ASCII)
# what programs call a field with the index of a device
_DEVICES = frozenset(("ifindex", "device", "dev", "iif", "oif"))
_LONGEST = 80  # digits of a number
_BOOLS = {"true": 1, "yes": 1, "on": 1, "1": 1, "false": 0, "no": 0, "off": 0, "0": 0}
# C has no other way to say that octets of a key mean nothing
_PAD = re.compile(r"_*(pad|padding|reserved|unused)[0-9_]*", re.ASCII)


def split(key: Shape, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a key, and those of the value behind it."""
    if isinstance(key, Prefix) and words and (key.fields is None or _path(words[0])):
        return split(key.fields or Scalar("octets", key.size, key.type), words)
    if isinstance(key, Struct) and words and _path(words[0]):
        count = _count_fields(key, words)
    elif isinstance(key, Array) and words and _path(words[0]):
        count = next((at for at, word in enumerate(words) if not word.startswith("[")), len(words))
    elif isinstance(key, Scalar) and key.meaning == "octets":
        single = all(len(word) == 2 and _HEX.fullmatch(word) for word in words[: key.size])
        count = key.size if single else 1
    else:
        count = 1
    return list(words[:count]), list(words[count:])


def _path(word: str) -> str:
    """What a word assigns to, as `next[1].mac`; "" if it assigns to nothing."""
    found = _ASSIGNED.match(word)
    return found[0][:-1] if found else ""


def _count_fields(key: Struct, words: Sequence[str]) -> int:
    """How many words belong to a key: up to one that names nothing of it, or nothing new once all of it is there."""
    names = [leaf.name for leaf in _leaves(key)]
    seen: set[str] = set()
    for at, word in enumerate(words):
        path = _path(word)
        whole = next((name for name in names if _within(path, name) or _within(name, path)), "")
        begun = any(_within(other, whole) or _within(whole, other) for other in seen)
        # elements of an array come one by one
        wanted = path != whole if begun else _is_pad(whole) or bool(missing(key, words[:at]))
        if not whole or path in seen or not wanted:
            return at
        seen.add(path)
    return len(words)


def _leaves(shape: Struct, path: str = "", offset: int = 0) -> Iterator[Field]:
    """The fields of a struct and of those within it, with their paths for names."""
    for field in shape.fields:
        if isinstance(field.shape, Struct):
            yield from _leaves(field.shape, f"{path}{field.name}.", offset + field.offset)
        else:
            yield Field(path + field.name, offset + field.offset, field.shape)


def _within(path: str, whole: str) -> bool:
    return bool(path) and (path == whole or path.startswith((whole + ".", whole + "[")))


def _is_pad(path: str) -> bool:
    return _PAD.fullmatch(path.rpartition(".")[2]) is not None


def missing(key: Struct, words: Sequence[str]) -> list[str]:
    """The fields of a key that no word is of; of fields that overlap one is enough, and padding needs none."""
    paths = [_path(word) for word in words]
    left, covered = [], []
    for leaf in _leaves(key):
        if any(_within(path, leaf.name) or _within(leaf.name, path) for path in paths):
            if not (isinstance(leaf.shape, Scalar) and leaf.shape.bits):
                covered.append(range(leaf.offset, leaf.offset + leaf.shape.size))
        elif not _is_pad(leaf.name):
            left.append(leaf)
    return [leaf.name for leaf in left if not any(leaf.offset in part for part in covered)]


def encode_key(shape: Shape, words: Sequence[str]) -> bytes:
    """The octets of a key; of a struct all fields must be there."""
    if not words:
        raise InvalidInput("key", "none given", _how(shape))
    if isinstance(shape, Prefix):
        return _prefix_key(shape, words)
    if isinstance(shape, Struct) and _path(words[0]) and (lacking := missing(shape, words)):
        raise InvalidInput("key", f"no {', '.join(lacking)} in it", "give all fields of the key, field=value")
    return encode(shape, words, "key")


def _prefix_key(shape: Prefix, words: Sequence[str]) -> bytes:
    """A prefix as ADDRESS/LENGTH, by its fields, or in hex where they have no names."""
    octets: bytes | None = None
    if shape.fields is None:
        octets = _octets(Scalar("octets", shape.size, shape.type), " ".join(words))
    elif _path(words[0]):
        octets = encode_key(shape.fields, words)
    if octets is None:
        return encode(shape, words, "key")
    _check_prefix(octets, " ".join(words), "key")
    return octets


def encode(shape: Shape, words: Sequence[str], what: str, before: bytes = b"") -> bytes:
    """The octets that words mean; fields they do not name are those of `before`, or zero.

    `what` is how errors call it: key or value.
    """
    octets = bytearray(before or shape.size)
    if not words:
        raise InvalidInput(what, "none given", _how(shape))
    if isinstance(shape, Scalar) and shape.meaning == "octets":
        _put(shape, octets, 0, " ".join(words), what)
    elif len(words) == 1 and not (isinstance(shape, Struct | Array) and _path(words[0])):
        _put(shape, octets, 0, words[0], what)
    else:
        seen = set()
        for word in words:
            path, equals, text = word.partition("=")
            if not isinstance(shape, Struct | Array):
                raise InvalidInput(what, f"{shown(words[1])} is one word too many", _how(shape))
            if not equals:
                raise InvalidInput(what, f"{shown(word)} does not say which field", _how(shape))
            if path in seen:
                raise InvalidInput(f"{what} {path}", "is given twice", "give it once")
            seen.add(path)
            inner, offset = _find(shape, path, what)
            _put(inner, octets, offset, text, f"{what} {path}")
    return bytes(octets)


def _how(shape: Shape) -> str:
    """What to write for a shape."""
    if isinstance(shape, Struct):
        return f"write field=value; its fields are {', '.join(field.name for field in shape.fields)}"
    if isinstance(shape, Array):
        return f"write {shape.count} elements with commas, or [i]=value"
    if isinstance(shape, Prefix):
        names = [field.name for field in shape.fields.fields] if shape.fields else []
        other = f"its fields {' and '.join(names)}" if names else f"{shape.size} octets in hex"
        return f"write a prefix such as {'10.0.0.0/8' if shape.address.size == 4 else '2001:db8::/32'}, or {other}"
    lowest, highest = shape.range()
    named = f", or one of {', '.join(name for name, _ in shape.names[:20])}" if shape.names else ""
    return {
        "uint": f"write a number from {lowest} to {highest}{named}",
        "int": f"write a number from {lowest} to {highest}",
        "bool": "write true or false",
        "enum": f"write one of {', '.join(name for name, _ in shape.names[:20])}",
        "float": "write a decimal number",
        "ip4": "write an IPv4 address such as 10.10.3.5",
        "ip6": "write an IPv6 address such as 2001:db8::5",
        "mac": "write six octets, as 08:00:27:f2:cb:f9",
        "text": f"write at most {shape.size} octets of text",
        "octets": f"write {shape.size} octets in hex, as {'0a1b2c3d'[: 2 * shape.size] or 'nothing'}",
        "device": "write the name of a device of this namespace, or its index",
    }[shape.meaning]


def _find(shape: Shape, path: str, what: str) -> tuple[Shape, int]:
    """The part of a shape that a path such as `next[1].mac` names, and where it begins."""
    offset, rest = 0, path
    while rest:
        if isinstance(shape, Array) and (index := _INDEX.match(rest)):
            if int(index[1]) >= shape.count:
                raise InvalidInput(f"{what} {path}", f"no element {index[1]}", f"there are 0 to {shape.count - 1}")
            offset += int(index[1]) * shape.element.size
            shape, rest = shape.element, rest[index.end() :]
        else:
            name = re.split(r"[.\[]", rest, maxsplit=1)[0]
            fields = shape.fields if isinstance(shape, Struct) else ()
            # a variable's own name may have dots
            known = [f for f in fields if f.name == name or (rest + ".").startswith(f.name + ".")]
            if not known:
                has = ", ".join(field.name for field in fields)
                raise InvalidInput(f"{what} {path}", f"no field {shown(rest)}", f"it has {has}" if has else _how(shape))
            field = max(known, key=lambda field: len(field.name))
            offset += field.offset
            shape, rest = field.shape, rest[len(field.name) :]
        rest = rest.removeprefix(".")
    return shape, offset


def _put(shape: Shape, octets: bytearray, offset: int, text: str, path: str) -> None:
    """Write one part of a key or value, given as text."""
    if isinstance(shape, Prefix):
        octets[offset : offset + shape.size] = _prefix(shape, text, path)
    elif isinstance(shape, Scalar):
        if shape.bits:
            _put_bits(shape, octets, offset, _number(shape, text, path))
        else:
            octets[offset : offset + shape.size] = _scalar(shape, text, path)
    elif isinstance(shape, Struct) and len(shape.fields) == 1:
        _put(shape.fields[0].shape, octets, offset + shape.fields[0].offset, text, path)
    elif isinstance(shape, Array) and (address := _address(shape, text)) is not None:
        octets[offset : offset + shape.size] = address
    elif isinstance(shape, Array):
        parts = text.split(",")
        if len(parts) != shape.count:
            raise InvalidInput(path, f"{len(parts)} elements given", _how(shape))
        for index, part in enumerate(parts):
            _put(shape.element, octets, offset + index * shape.element.size, part, f"{path}[{index}]")
    else:
        raise InvalidInput(path, f"{shown(text)} does not say which field", _how(shape))


def _address(shape: Array, text: str) -> bytes | None:
    """An array of 4 octets given as an IPv4 address, or one of 16 given as an IPv6 address; None if it is not."""
    numbers = isinstance(shape.element, Scalar) and shape.element.meaning in ("uint", "int")
    if numbers and shape.size == 4 and shape.count == 4 and _QUAD.fullmatch(text):
        return _ip4(text)
    return _ip6(text) if numbers and shape.size == 16 and ":" in text else None


def _prefix(shape: Prefix, text: str, path: str) -> bytes:
    address, slash, length = text.partition("/")
    bits = shape.address.size * 8
    given = _scalar(shape.address, address, path)
    if slash and not (re.fullmatch(r"[0-9]{1,3}", length, re.ASCII) and int(length) <= bits):
        raise InvalidInput(path, f"/{shown(length)} is not a prefix length", f"give a number from 0 to {bits}")
    octets = (int(length) if slash else bits).to_bytes(4, sys.byteorder) + given
    _check_prefix(octets, text, path)
    return octets


def _check_prefix(octets: bytes, text: str, path: str) -> None:
    """Refuse a prefix, given as text, that is longer than its address, or has something behind its length."""
    length, address = int.from_bytes(octets[:4], sys.byteorder), octets[4:]
    if length > len(address) * 8:
        raise InvalidInput(path, f"{length} is not a prefix length", f"give a number from 0 to {len(address) * 8}")
    network = ip_network((address, length), strict=False)
    if network.network_address.packed != address:
        raise InvalidInput(path, f"{shown(text)} has host bits set", f"write {network}")


def _scalar(shape: Scalar, text: str, path: str) -> bytes:
    found: bytes | None = None
    if shape.meaning in ("text", "octets", "float"):
        found = {"text": _text, "octets": _octets, "float": _float}[shape.meaning](shape, text)
    elif shape.meaning in ("ip6", "mac"):
        found = _ip6(text) if shape.meaning == "ip6" else _mac(text)
    elif shape.size == 4 and shape.meaning in ("ip4", "uint", "int") and _QUAD.fullmatch(text):
        found = _ip4(text)
    elif shape.meaning != "ip4" or _NUMBER.fullmatch(text):
        big = shape.big_endian or shape.meaning == "ip4"
        number = _number(shape, text, path)
        return number.to_bytes(shape.size, "big" if big else sys.byteorder, signed=number < 0)
    if found is None:
        raise InvalidInput(path, f"{shown(text)} is not what it holds", _how(shape))
    return found


def _number(shape: Scalar, text: str, path: str) -> int:
    number = dict(shape.names).get(text)
    if shape.meaning == "bool":
        number = _BOOLS.get(text.lower())
    elif number is None and _NUMBER.fullmatch(text):
        # Python refuses to read very long ones, which are out of range anyway
        number = int(text, 16 if "x" in text.lower() else 10) if len(text) <= _LONGEST else 1 << 4 * _LONGEST
    elif shape.meaning == "device" or (shape.size == 4 and re.split("[ ._]", path)[-1] in _DEVICES):
        try:
            number = socket.if_nametoindex(text)
        except (OSError, ValueError):
            raise InvalidInput(path, f"no device {shown(text)} in this namespace", _how(shape)) from None
    if number is None:
        other = {"enum": "no member of its enum", "bool": "neither true nor false"}
        raise InvalidInput(path, f"{shown(text)} is {other.get(shape.meaning, 'not a whole number')}", _how(shape))
    lowest, highest = shape.range()
    if not lowest <= number <= highest:
        raise InvalidInput(path, f"{shown(text)} is out of range", f"give {lowest} to {highest}")
    return number


def _put_bits(shape: Scalar, octets: bytearray, offset: int, number: int) -> None:
    part = slice(offset, offset + shape.size)
    mask = (1 << shape.bits) - 1
    rest = int.from_bytes(octets[part], "little") & ~(mask << shape.shift)
    octets[part] = (rest | (number & mask) << shape.shift).to_bytes(shape.size, "little")


def _ip4(text: str) -> bytes | None:
    try:
        return IPv4Address(text).packed
    except AddressValueError:
        return None


def _ip6(text: str) -> bytes | None:
    try:
        return None if "%" in text else IPv6Address(text).packed
    except AddressValueError:
        return None


def _mac(text: str) -> bytes | None:
    return bytes.fromhex(text.replace(":", "").replace("-", "")) if _MAC.fullmatch(text) else None


def _float(shape: Scalar, text: str) -> bytes | None:
    try:
        return struct.pack("=f" if shape.size == 4 else "=d", float(text))
    except (ValueError, OverflowError):
        return None


def _text(shape: Scalar, text: str) -> bytes | None:
    encoded = text.encode("utf-8", "surrogateescape")
    return encoded.ljust(shape.size, b"\0") if len(encoded) <= shape.size and b"\0" not in encoded else None


def _octets(shape: Scalar, text: str) -> bytes | None:
    """Octets in hex, together or one by one; or an address where there are as many octets as it has."""
    if shape.size == 4 and _QUAD.fullmatch(text):
        return _ip4(text)
    if ":" in text:
        return {6: _mac, 16: _ip6}[shape.size](text) if shape.size in (6, 16) else None
    words = text.split()
    if not all(_HEX.fullmatch(word) for word in words):
        return None
    found = bytes.fromhex("".join(word.lower().removeprefix("0x") for word in words))
    return found if len(found) == shape.size else None
