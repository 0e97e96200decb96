"""Numbers of a service as the operator writes them: ports, statuses of HTTP, the size of a ring. Pure."""

import re
from functools import lru_cache
from math import isqrt

from hopline.errors import InvalidInput
from hopline.spelling import shown

PORT_MOST = 65535
RING_LEAST, RING_MOST = 251, 1_048_573  # the primes at either end

_PORTS = re.compile(r"(0|[1-9][0-9]{0,4})(?:-(0|[1-9][0-9]{0,4}))?", re.ASCII)
_STATUSES = re.compile(r"[1-5][0-9]{2}(?:-[1-5][0-9]{2})?(?:,[1-5][0-9]{2}(?:-[1-5][0-9]{2})?)*", re.ASCII)
_PORT_HINT = "give a port from 1 to 65535, a range such as 80-81, or any"


def canonical_ports(ports: str | int, field: str = "port") -> str:
    """Return a port, a range of ports or `any` in its one spelling: "80", "80-81", "any"."""
    text = str(ports)
    if text == "any":
        return text
    found = None if isinstance(ports, bool) else _PORTS.fullmatch(text)
    if found is None:
        raise InvalidInput(field, f"{shown(text)} is neither a port nor a range of ports", _PORT_HINT)
    first, last = int(found[1]), int(found[2] or found[1])
    if not first:
        hint = "write any for all ports" if last == PORT_MOST else _PORT_HINT
        raise InvalidInput(field, f"{text} has port 0, which nobody listens on", hint)
    if max(first, last) > PORT_MOST:
        raise InvalidInput(field, f"{text} has no port of 16 bits", _PORT_HINT)
    if first > last:
        raise InvalidInput(field, f"{text} ends before it begins", f"write {last}-{first}")
    return str(first) if first == last else f"{first}-{last}"


def port_range(ports: str) -> tuple[int, int]:
    """Return the first and the last port of a canonical text; of `any`, 0 and 65535."""
    if ports == "any":
        return 0, PORT_MOST
    first, _, last = ports.partition("-")
    return int(first), int(last or first)


def canonical_statuses(text: str, field: str = "expect") -> str:
    """Return statuses of HTTP and ranges of them in their one spelling: "200", "200-399", "200,301-302"."""
    plain = text.replace(" ", "")
    if not _STATUSES.fullmatch(plain) or len(plain) > 200:
        hint = "give three digits each, such as 200, 200-399 or 200,301-302"
        raise InvalidInput(field, f"{shown(text)} names no statuses of HTTP", hint)
    for first, last in status_ranges(plain):
        if first > last:
            raise InvalidInput(field, f"{first}-{last} ends before it begins", f"write {last}-{first}")
    return plain


def status_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Return first and last status of each range of a canonical text."""
    pairs = (part.partition("-") for part in text.split(","))
    return tuple((int(first), int(last or first)) for first, _, last in pairs)


def ring_size(slots: int, field: str = "ring") -> int:
    """Return the size of a ring if Maglev can fill one of it: a prime, so that every step visits every slot."""
    if isinstance(slots, bool) or not isinstance(slots, int) or not RING_LEAST <= slots <= RING_MOST:
        raise InvalidInput(field, f"{slots} is out of range", f"give a prime from {RING_LEAST} to {RING_MOST}")
    if not is_prime(slots):
        below, above = nearest_primes(slots)
        raise InvalidInput(field, f"{slots} is not a prime", f"the nearest are {below} and {above}")
    return slots


@lru_cache(maxsize=1024)
def is_prime(number: int) -> bool:
    """Whether a number is a prime; up to RING_MOST that takes at most a thousand divisions."""
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def nearest_primes(number: int) -> tuple[int, int]:
    """Return the primes next below and next above a number of more than 2."""
    below, above = number - 1, number + 1
    while not is_prime(below):
        below -= 1
    while not is_prime(above):
        above += 1
    return below, above
