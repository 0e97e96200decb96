"""`hopline explain`: what would be done with a packet, and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hopline.cli import output
from hopline.cli.grammar import client, common_options, complete_interfaces, json_option
from hopline.errors import InvalidInput

if TYPE_CHECKING:
    from hopline.explain import CaptureExplained, Decoded, Explanation, Layer, Share

T = TypeVar("T")
_INDENT = "    "
_FIELDS = ("src", "dst", "protocol", "sport", "dport", "flags", "ttl", "size", "vlan")


@click.command(short_help="What would be done with a packet, and why.")
@click.option("--in", "in_dev", metavar="DEV", help="The interface it comes in by.", shell_complete=complete_interfaces)
@click.option("--src", metavar="ADDR", help="Its sender; an address of nobody's unless told.")
@click.option("--dst", metavar="ADDR", help="Where it is for.")
@click.option("--protocol", metavar="tcp|udp|icmp|N", help="What it carries; udp unless told, tcp with --flags.")
@click.option("--sport", type=click.IntRange(0, 65535), metavar="N", help="The source port, of tcp or udp.")
@click.option("--dport", type=click.IntRange(0, 65535), metavar="N", help="The destination port, of tcp or udp.")
@click.option("--flags", metavar="LETTERS", help="TCP's flags, of FSRPAUEC; S unless told.")
@click.option("--ttl", type=click.IntRange(0, 255), metavar="N", help="TTL or hop limit; 64 unless told.")
@click.option("--size", type=int, metavar="N", help="Octets of the IP packet; as few as there can be unless told.")
@click.option("--vlan", type=click.IntRange(0, 4094), metavar="N", help="The id of a VLAN tag; untagged unless told.")
@click.option("--hex", "hex_", metavar="BYTES", help="The frame itself, from its destination MAC on.")
@click.option("--pcap", type=click.Path(), metavar="FILE", help="All packets of a capture file, pcap or pcapng.")
@click.option("-n", "limit", type=click.IntRange(1), metavar="K", help="With --pcap: only the first K packets.")
@json_option
@common_options
@click.pass_context
def explain(
    ctx: click.Context,
    in_dev: str | None,
    hex_: str | None,
    pcap: str | None,
    limit: int | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Say what would be done with a packet, and why, step by step; nothing is changed by asking.

    The packet is made of --dst and what else is given, or it is the frame of --hex, or each one of a --pcap file.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    _check(ctx, given, hex_, pcap, limit)
    with _naming_options(ctx):
        if pcap is not None:
            capture = client().explain.capture(pcap, in_dev=in_dev, limit=limit)
            _show(capture, _capture_lines, as_json)
        else:
            from hopline.explain import Question, checked_question

            # checked here too, so that a wrong value is told where nobody answers
            question = checked_question(Question(in_dev=in_dev, hex=hex_, **given))
            _show(client().explain.ask(question), _lines, as_json)


def _show(found: T, lines: Callable[[T], list[str]], as_json: bool) -> None:
    if as_json:
        output.json(found)
    else:
        click.echo("\n".join(lines(found)))


@contextmanager
def _naming_options(ctx: click.Context) -> Iterator[None]:
    """Make a value that is wrong a wrong use of the option that gave it."""
    try:
        yield
    except InvalidInput as error:
        if error.field not in ("hex", "in", *_FIELDS):
            raise
        hint = f": {error.hint}" if error.hint else ""
        raise click.UsageError(f"--{error.field}: {error.detail}{hint}", ctx) from error


def _check(ctx: click.Context, given: dict[str, Any], hex_: str | None, pcap: str | None, limit: int | None) -> None:
    """Refuse a command line that means no packet, or several kinds."""
    ways = [f"--{name}" for name in given][:1]
    ways += [name for name, value in (("--hex", hex_), ("--pcap", pcap)) if value is not None]
    if len(ways) > 1:
        raise click.UsageError(f"{' and '.join(ways)} cannot be together: give --dst, --hex or --pcap", ctx)
    if not ways or (hex_ is None and pcap is None and "dst" not in given):
        raise click.UsageError("no packet: give --dst ADDR, --hex BYTES or --pcap FILE", ctx)
    if limit is not None and pcap is None:
        raise click.UsageError("-n is how many packets of a file: give --pcap FILE too", ctx)


# one packet


def _lines(found: "Explanation") -> list[str]:
    """Return an explanation as a person reads it: the packet, the steps, the verdict, what leaves or what is next."""
    width = max(len(step.step) for step in found.steps)
    lines = [f"{step.step:{width}}  {step.says}" for step in found.steps[:-1]]
    lines.append(f"{'verdict':{width}}  {found.verdict}: {found.says.removeprefix('passed: ')}")
    if found.leaves is not None:
        lines.append(f"{'leaves':{width}}  {_leaves(found)}")
        lines += [f"{'':{width}}    {text}" for text in _layers(found.leaves)]
    lines += [f"{'then':{width}}  {text}" for text in found.then]
    lines += [f"{'unseen':{width}}  {text}" for text in found.unseen]
    lines.append(f"{'time':{width}}  {found.ns} ns {found.ns_says}")
    return lines


def _leaves(found: "Explanation") -> str:
    assert found.leaves is not None
    before, after = found.packet.octets, found.leaves.octets
    where = f"by {found.out_dev}" if found.out_dev else "to this host's kernel"
    forwarded = found.verdict == "FORWARDED"
    cut = f" ({before - after} octets behind the IP packet are cut off)" if after < before and forwarded else ""
    return f"{where}, {after} octets{cut}; what is changed is marked old → new"


def _layers(frame: "Decoded") -> Iterator[str]:
    width = max((len(layer.name) for layer in frame.layers), default=0)
    for layer in frame.layers:
        yield f"{layer.name:{width}}  {', '.join(_fields(layer))}"


def _fields(layer: "Layer") -> Iterator[str]:
    for field in layer.fields:
        was = f"{field.was} → " if field.was is not None else ""
        yield f"{field.name} {was}{field.value}"


# a file


def _capture_lines(found: "CaptureExplained") -> list[str]:
    where = f", as if they came in by {found.in_dev}" if found.in_dev else ""
    lines = [f"{found.packets} packets of {found.file} ({found.format}){where}"]
    if found.cut:
        lines.append(f"{found.cut} of them were not captured whole: zeros stand for what is missing")
    if found.skipped:
        lines.append(f"{found.skipped} more are shorter or longer than an Ethernet frame can be, and were left out")
    if found.incomplete:
        lines.append(f"the rest could not be read: {found.incomplete}")
    if found.verdicts:
        rows = [(one.verdict, one.packets, _percent(one), one.bytes, one.first) for one in found.verdicts]
        columns = ["VERDICT", "PACKETS", "SHARE", "BYTES", "FIRST"]
        lines += ["", *output.aligned(columns, rows, right=columns[1:])]
    for one in found.verdicts:
        lines += ["", f"packet {one.first}: {_summary(one)}", *(f"{_INDENT}{text}" for text in _lines(one.explanation))]
    return lines


def _percent(share: "Share") -> str:
    # what is there is never shown as nothing, nor what is missing as all
    text = f"{share.share:.1%}"
    if text == "100.0%" and share.share < 1:
        return ">99.9%"
    return "<0.1%" if text == "0.0%" else text


def _summary(share: "Share") -> str:
    rest = share.packets - 1
    return f"{share.verdict}, as {rest} more" if rest else share.verdict
