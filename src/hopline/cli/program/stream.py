"""What commands that go on until they are stopped share: they end cleanly, and print JSON a line at a time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from hopline.cli import output


@contextmanager
def until_stopped() -> Iterator[None]:
    """Around what runs on: Ctrl-C ends it well, and so do SIGTERM, a terminal that is closed and a reader that goes."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        output.give_up()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def json_line(value: Any) -> None:
    """Print one value as one line of JSON, at once."""
    import msgspec

    click.echo(msgspec.json.encode(value).decode())


def shown(text: str) -> str:
    """Return a text with what would act on a terminal spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
