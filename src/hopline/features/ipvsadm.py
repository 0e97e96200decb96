"""Command lines of ipvsadm as its options: what `ipvsadm -S` prints, and what is typed by hand. Pure.

The grammar is that of ipvsadm 1.31 (ipvsadm.c, by libpopt): short options may stand together (`-At`), the last of them
with its value at once or behind it; long ones take `=` or the next word; a saved rule is a command line without the
command.
"""

from collections.abc import Iterator

# short option → its long name, and whether it has a value: "" none, "?" one that may be absent, "!" one
_SHORT = {
    "A": ("add-service", ""), "E": ("edit-service", ""), "D": ("delete-service", ""), "C": ("clear", ""),
    "a": ("add-server", ""), "e": ("edit-server", ""), "d": ("delete-server", ""), "L": ("list", ""), "l": ("list", ""),
    "Z": ("zero", ""), "R": ("restore", ""), "S": ("save", ""), "h": ("help", ""), "v": ("version", ""),
    "t": ("tcp-service", "!"), "u": ("udp-service", "!"), "f": ("fwmark-service", "!"), "s": ("scheduler", "!"),
    "p": ("persistent", "?"), "M": ("netmask", "!"), "r": ("real-server", "!"), "m": ("masquerading", ""),
    "i": ("ipip", ""), "g": ("gatewaying", ""), "w": ("weight", "!"), "x": ("u-threshold", "!"),
    "y": ("l-threshold", "!"), "n": ("numeric", ""), "c": ("connection", ""), "X": ("exact", ""), "6": ("ipv6", ""),
    "o": ("ops", ""), "b": ("sched-flags", "!"),
}  # fmt: skip
_LONG = dict(_SHORT.values()) | {
    "sctp-service": "!", "pe": "!", "tun-type": "!", "tun-port": "!", "tun-nocsum": "", "tun-csum": "",
    "tun-remcsum": "", "set": "", "start-daemon": "!", "stop-daemon": "!", "mcast-interface": "!", "mcast-group": "!",
    "mcast-port": "!", "mcast-ttl": "!", "syncid": "!", "sync-maxlen": "!",
    **dict.fromkeys(("stats", "rate", "thresholds", "persistent-conn", "tun-info", "timeout", "daemon", "nosort"), ""),
    "sort": "",
}  # fmt: skip
_SAVED_BARE = {"ops": "ops", "pe": "pe"}  # what a save writes without its dashes


class Unfit(Exception):
    """A line that is no rule, or one that cannot be expressed; why, in lower case and without a full stop."""


def commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and words of each line that says something; one that ends in a backslash goes on in the next."""
    words: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        goes_on = line.rstrip().endswith("\\")
        for word in line.rstrip().removesuffix("\\").split():
            if word.startswith("#"):
                break
            words.append(word)
        if not goes_on:
            if words:
                yield first, words
            words, first = [], 0
    if words:
        yield first, words


def options(words: list[str]) -> dict[str, str]:
    """Return a command line's options by their long names; a value that is absent is ""."""
    rest = [_unquoted(word) for word in words]
    if rest[0].rpartition("/")[2] == "sudo":
        del rest[0]
    if rest and rest[0].rpartition("/")[2] == "ipvsadm":
        del rest[0]
    elif not rest or not rest[0].startswith("-"):
        raise Unfit(f"{words[0]} is not ipvsadm")
    given: dict[str, str] = {}
    while rest:
        for name, value in _taken(rest):
            if name in given and name != "numeric":
                raise Unfit(f"--{name} is given twice")
            given[name] = value
    return given


def _taken(rest: list[str]) -> Iterator[tuple[str, str]]:
    """Take the next word, and what belongs to it, off the list; yield the options in it with their values."""
    word = rest.pop(0)
    if word.startswith("--"):
        name, is_set, value = word[2:].partition("=")
        if name not in _LONG:
            raise Unfit(f"{word} is no option of ipvsadm")
        yield name, value if is_set else _value(word, _LONG[name], rest)
        if name == "set":
            rest[:3] = []
    elif word.startswith("-") and len(word) > 1:
        letters = word[1:]
        while letters:
            if letters[0] not in _SHORT:
                raise Unfit(f"-{letters[0]} is no option of ipvsadm")
            (name, kind), letters = _SHORT[letters[0]], letters[1:]
            if kind and letters:
                yield name, letters.removeprefix("=")
                return
            yield name, _value(f"-{word[-1]}", kind, rest)
    elif word in _SAVED_BARE:
        yield _SAVED_BARE[word], _value(word, _LONG[word], rest)
    else:
        raise Unfit(f"{word} belongs to no option")


def _value(option: str, kind: str, rest: list[str]) -> str:
    if not kind or (kind == "?" and (not rest or rest[0].startswith("-"))):
        return ""
    if not rest:
        raise Unfit(f"{option} without its value")
    return rest.pop(0)


def _unquoted(word: str) -> str:
    if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'":
        word = word[1:-1]
    if "$" in word or "`" in word:
        raise Unfit(f"{word} is for a shell to fill in: write what it stands for")
    if word in ("&&", "||", "|", ";", "&") or word.endswith(";"):
        raise Unfit("more than one command: write one a line")
    return word
