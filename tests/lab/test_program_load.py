"""`hopline program load` and `unload` on devices: what is loaded, pinned and on record, and what is refused."""

import json
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from clang import compile_bpf
from hopline.errors import InvalidInput, VerifierRefusal
from hopline.host.program import load, objects
from hopline.kernel import bpffs, netns
from hopline.kernel.map import Map
from hopline.kernel.program import LWT_IN, LWT_XMIT, XDP
from lab.loading import (
    FRAME,
    LEFT,
    SOURCE,
    attached,
    command,
    counts,
    left_of,
    loading,
    refusal,
    unloading,
)
from lab.net import Sniffer, send_frames
from lab.netlink_room import needs_root, shell

pytestmark = needs_root


def test_packets_meet_the_program_until_it_is_unloaded(ns, made):
    code, out, err = command(ns, "load", LEFT, made, "--program", "drop_everything_there", "--pin", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    there = attached(ns)
    assert (told["mode"], told["program"], told["id"]) == ("native", "drop_everything_there", there.program_id)
    assert there.link_id is None, "it is attached without a link"
    assert f"prog/xdp id {there.program_id} " in shell(ns, f"ip link show {LEFT}"), "others see it"
    place = bpffs.root() / f"hopline/.programs/{netns.inode(ns)}/{LEFT}"
    assert told["pins"] == [f"{place}/drop_everything_there", f"{place}/verdicts"], "the unused map is not its"
    assert all(Path(pin).exists() for pin in told["pins"])
    with Sniffer(ns, LEFT) as sniffer, Map.from_pin(place / "verdicts") as verdicts:
        send_frames(ns, "right", [FRAME] * 3)
        deadline = time.monotonic() + 2
        while verdicts.sums()[1]["packets"] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tuple(verdicts.sums()[1]) == (3, 3 * len(FRAME))
        assert FRAME not in sniffer.frames
        del verdicts
        assert command(ns, "unload", LEFT)[1:] == (
            f"{LEFT}: drop_everything_there (id {there.program_id}) detached\n",
            "",
        )
        send_frames(ns, "right", [FRAME])
        assert FRAME in sniffer.wait(1)
    assert attached(ns) is None
    assert left_of(ns) == []


def test_the_hook_makes_the_type_and_a_section_that_says_it_decides(ns, made, tmp_path):
    """Of several programs one is named; by an old section's name, or the only one that is of XDP by its section."""
    assert loading(ns, made, section="xdp_counted").program == "counted"
    unloading(ns)
    text = SOURCE.replace('SEC("xdp_drop")', 'SEC("xdp")')
    assert loading(ns, compile_bpf(tmp_path, text)).program == "drop_everything_there"


ALONE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("%s") int alone(void *ctx) { return 2; }
char _license[] SEC("license") = "GPL";
"""


def test_an_only_program_of_another_kind_is_loaded_only_if_it_is_named(ns, tmp_path):
    """2 lets packets pass on a device and drops them on a route, 0 the other way round."""
    for section, of_device, of_route in (
        ("xdp", True, False),
        ("lwt_xmit", False, True),
        ("tc", False, True),
        ("socket", False, False),
        ("old", True, True),
    ):
        (tmp_path / section).mkdir()
        file = compile_bpf(tmp_path / section, ALONE % section)
        said = f'{file}: its only program, alone, is of SEC."{section}".'
        for hook, fits in ((XDP, of_device), (LWT_XMIT, of_route)):
            with nullcontext() if fits else pytest.raises(InvalidInput, match=said), objects.opened(file, hook):
                pass
            with objects.opened(file, hook, program="alone") as (_, loaded):
                assert loaded.type == hook


TAILS = """
struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __uint(key_size, 4);
         __uint(value_size, 4); } next SEC(".maps");
SEC("xdp") int first(struct xdp_md *ctx) { bpf_tail_call(ctx, &next, 0); return XDP_PASS; }
SEC("xdp_tail") int second(struct xdp_md *ctx) { return XDP_DROP; }
SEC("encap") int other(struct __sk_buff *skb) { return bpf_lwt_push_encap(skb, 1, &skb, 8); }
"""


def test_a_program_of_unknown_kind_beside_a_tail_call_is_not_in_the_way(ns, tmp_path):
    file = compile_bpf(tmp_path, ALONE.replace('SEC("%s") int alone(void *ctx) { return 2; }', TAILS))
    with objects.opened(file, XDP, program="first") as (found, _):
        assert found.program("second").type == XDP
    with objects.opened(file, LWT_IN, program="other") as (_, loaded):
        assert loaded.type == LWT_IN


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--program", "gone"], "no program gone: it has counted, drop_everything_there, see"),
        (["--section", "xdp"], "no section xdp: it has xdp_counted, xdp_drop, lwt_xmit/capture"),
        (
            ["--program", "see", "--section", "xdp_drop"],
            "no program see in section xdp_drop: it has drop_everything_there",
        ),
        ([], "3 programs are in it: name one by --program: counted (xdp_counted), drop_everything_there (xdp_drop), "),
        (["--program", "counted", "--set", "gone=1"], "set gone: no such variable in "),
        (["--program", "counted", "--set", "action"], "set: 'action' sets nothing: write NAME=VALUE"),
        (["--program", "counted", "--set", "action=4294967296"], "set action: "),
        (["--program", "counted", "--set", "action=two"], "set action: "),
        (["--program", "counted", "--set", "fixed=2"], "declare it `const volatile`"),
        (
            ["--program", "counted", "--mode", "offload"],
            f"load on {LEFT}: the device cannot run programs itself: use --mode native or generic",
        ),
        (["--program", "counted", "--pin", "--for", "9"], "a pinned program would outlive its time"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(ns, made, capsys, words, said):
    assert said in refusal(ns, capsys, "load", LEFT, made, *words)


def test_a_device_that_is_not_there_or_cannot(ns, made, capsys):
    chosen = ("--program", "counted")
    said = refusal(ns, capsys, "load", "gone0", made, *chosen)
    assert said == "interface gone0: no such device here: see ip link"
    said = refusal(ns, capsys, "load", "lo", made, *chosen, "--mode", "native", "--pin")
    assert said.startswith("attach xdp counted to lo: operation not supported")
    assert said.endswith("use mode generic")
    shell(ns, f"ip link set {LEFT} mtu 9000; ip link set right mtu 9000")
    asked = f"attach xdp counted to {LEFT}: numerical result out of range (errno 34): "
    said = refusal(ns, capsys, "load", LEFT, made, *chosen, "--mode", "native")
    assert said == f"{asked}veth: Peer MTU is too large to set XDP; try mode generic"
    said = refusal(ns, capsys, "load", LEFT, made, *chosen, "--mode", "native", "--for", "9")
    assert said == f"{asked}the driver or its settings (mtu, queues, lro) do not allow it; try mode generic"
    assert refusal(ns, capsys, "unload", LEFT).startswith(f"unload from {LEFT}: no xdp program is attached: ")
    assert refusal(ns, capsys, "unload", "gone0").startswith("interface gone0: no such device")


def test_files_that_are_no_objects(ns, made, tmp_path, capsys):
    nothing = tmp_path / "nothing.o"
    nothing.write_bytes(b"")
    cut = tmp_path / "cut.o"
    cut.write_bytes(Path(made).read_bytes()[:3000])
    turned = tmp_path / "turned.o"
    compiler = ["clang", "-target", "bpfeb", "-g", "-O2", "-x", "c", "-c", "-", "-o", str(turned)]
    subprocess.run(compiler, input="int p(void *ctx) { return 2; }", text=True, check=True)
    bare = tmp_path / "bare.o"
    subprocess.run(["llvm-objcopy", "--remove-section=.BTF", "--remove-section=.BTF.ext", made, str(bare)], check=True)
    for file, said in (
        (tmp_path / "gone.o", f"open {tmp_path}/gone.o: no such file or directory (errno 2): name another file"),
        (tmp_path, f"open {tmp_path}: is a directory (errno 21): name another file"),
        (nothing, "no bpf object: not a 64-bit elf file"),
        (cut, "no bpf object: damaged elf file"),
        ("/bin/sh", "no bpf object: it is for another machine"),
        (turned, "no bpf object of this machine, which is little-endian: "),
        (bare, "no btf in it"),
    ):
        assert said in refusal(ns, capsys, "load", LEFT, file, "--pin"), file


def test_what_the_verifier_refuses_is_told_by_its_last_line(ns, tmp_path, capsys, monkeypatch):
    text = SOURCE.replace("return count(ctx, action);", "return *(int *)(long)ctx->data;")
    file = compile_bpf(tmp_path, text)
    said = refusal(ns, capsys, "load", LEFT, file, "--program", "counted", "--pin")
    assert said.startswith("load program counted of fixture.bpf.o: permission denied (errno 13): ")
    assert "outside of the packet" in said
    with pytest.raises(VerifierRefusal) as error:
        loading(ns, file, program="counted")
    assert error.value.log.count("\n") > 3
    monkeypatch.setenv("HOPLINE_DEBUG", "1")
    code, _, err = command(ns, "load", LEFT, file, "--program", "counted")
    assert (code, err) == (1, f"{error.value.log}hopline: {said}\n"), "all of it on request"


OLD_MAPS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct bpf_map_def { unsigned int type, key_size, value_size, max_entries, map_flags; };
struct bpf_map_def SEC("maps") seen = {
    .type = BPF_MAP_TYPE_LRU_HASH, .key_size = 4, .value_size = 8, .max_entries = 77 };
SEC("xdp") int p(struct xdp_md *ctx)
{
    __u32 key = 0;

    return bpf_map_lookup_elem(&seen, &key) ? XDP_DROP : XDP_PASS;
}
char _license[] SEC("license") = "GPL";
"""


def test_maps_of_the_old_kind_are_shown_as_they_are_written_today(ns, tmp_path, capsys):
    said = refusal(ns, capsys, "load", LEFT, compile_bpf(tmp_path, OLD_MAPS))
    start, _, advice = said.partition(": write it as `")
    assert start.endswith('maps of SEC("maps") (seen), which libbpf takes no more since 1.0')
    # done as it says, it loads
    old = OLD_MAPS[OLD_MAPS.index("struct bpf_map_def SEC") : OLD_MAPS.index('SEC("xdp")')]
    done = loading(ns, compile_bpf(tmp_path, OLD_MAPS.replace(old, advice.removesuffix("`") + "\n")))
    with Map.from_id(done.maps[0].id) as seen:
        assert (seen.type, seen.key_size, seen.value_size, seen.max_entries) == (9, 4, 8, 77)


def test_another_program_is_named_and_stays(ns, made, capsys):
    first = loading(ns, made, program="counted", pin=True)
    said = refusal(ns, capsys, "load", LEFT, made, "--program", "drop_everything_there", "--pin")
    assert said == (f"load on {LEFT}: another program (id {first.id}, counted) is attached: unload it or use --replace")
    said = refusal(ns, capsys, "load", LEFT, made, "--program", "gone", "--replace", "--pin")
    assert "no program gone" in said
    assert [Path(pin).exists() for pin in first.pins] == [True, True]


def test_a_replacement_misses_no_packet(ns, made):
    """Every frame that goes in while programs follow one another is counted by one of them: none sees no program."""
    done = [loading(ns, made, program="counted", variables=["action=1"])]
    opened = [Map.from_id(done[0].maps[0].id)]
    ended = threading.Event()
    sent = []

    def send():
        while not ended.is_set():
            send_frames(ns, "right", [FRAME] * 50)
            sent.append(50)

    with Sniffer(ns, LEFT) as sniffer:
        thread = threading.Thread(target=send)
        thread.start()
        for _ in range(10):
            done.append(loading(ns, made, program="drop_everything_there", replace=True))
            opened.append(Map.from_id(done[-1].maps[0].id))
        ended.set()
        thread.join()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and total(opened) < sum(sent):
            time.sleep(0.01)
        assert total(opened) == sum(sent)
        assert FRAME not in sniffer.frames
    assert done[-1].replaced.id == done[-2].id
    for one in opened:
        one.close()


def total(opened) -> int:
    return sum(int(one.sums()["packets"].sum()) for one in opened)


def test_maps_are_reused_with_what_they_hold(ns, made, tmp_path):
    first = loading(ns, made, program="counted", pin=True)
    send_frames(ns, "right", [FRAME] * 2)
    deadline = time.monotonic() + 2
    while counts(first).get(2, (0,))[0] < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    held = counts(first)
    assert held[2][0] >= 2
    second = loading(ns, made, program="drop_everything_there", pin=True, replace=True, reuse_maps=True)
    assert [(one.name, one.reused) for one in second.maps] == [("verdicts", True)]
    assert second.maps[0].id == first.maps[0].id
    send_frames(ns, "right", [FRAME])
    while 1 not in counts(second) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counts(second)[2] >= held[2]
    assert counts(second)[1][0] >= 1
    third = loading(ns, made, program="counted", replace=True)
    assert not third.maps[0].reused, "only where it is asked"
    assert third.pins == []
    assert [path for path in left_of(ns) if path.startswith("/sys")] == [], "pins of what was replaced go"
    # the kernel's part of a map's name is 15 characters; an object's may be longer
    longer = compile_bpf(tmp_path, SOURCE.replace("verdicts", "verdicts_by_action"))
    fourth = loading(ns, longer, program="counted", replace=True, pin=True, reuse_maps=True)
    assert fourth.notes == ["no map verdicts_by_action was there to be reused: it begins empty"]
    fifth = loading(ns, longer, program="counted", replace=True, pin=True, reuse_maps=True)
    assert [(one.name, one.reused) for one in fifth.maps] == [("verdicts_by_action", True)]
    assert fifth.maps[0].id == fourth.maps[0].id


ALIKE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct four { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); };
struct four packets_counter_ipv4 SEC(".maps"), packets_counter_ipv6 SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); __uint(key_size, 4); __uint(value_size, 4); } told SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_DEVMAP_HASH); __uint(max_entries, 2); __type(key, __u32);
         __type(value, struct bpf_devmap_val); } ways SEC(".maps");
SEC("xdp") int both(struct xdp_md *ctx)
{
    __u32 key = 0;
    __u64 *four = bpf_map_lookup_elem(&packets_counter_ipv4, &key);
    SIX
    bpf_perf_event_output(ctx, &told, BPF_F_CURRENT_CPU, &key, 4);
    return four ? bpf_redirect_map(&ways, 0, XDP_PASS) : XDP_DROP;
}
char _license[] SEC("license") = "GPL";
"""


def test_maps_whose_names_are_cut_to_the_same_are_not_mistaken(ns, tmp_path, capsys):
    """One is not taken for the other, nor for both; a pin has their names whole.

    Nor are two more refused: libbpf gives one a size that the object does not say, and the kernel keeps no types of the
    other, which is of devices.
    """
    both = compile_bpf(tmp_path, ALIKE.replace("SIX", "four = bpf_map_lookup_elem(&packets_counter_ipv6, &key);"))
    loading(ns, both)
    words = ("load", LEFT, both, "--replace", "--reuse-maps", "--pin")
    todo = "load without --reuse-maps, with --pin to keep names whole"
    why = "two of them are called packets_counter in the kernel, which cuts names to 15 characters"
    assert refusal(ns, capsys, *words) == f"reuse maps of {LEFT}: {why}: {todo}"
    first = loading(ns, both, replace=True, pin=True)
    second = loading(ns, both, replace=True, reuse_maps=True)
    assert second.maps == [load.UsedMap(one.name, one.id, True) for one in first.maps]
    (tmp_path / "one").mkdir()
    third = loading(ns, compile_bpf(tmp_path / "one", ALIKE.replace("SIX", "")), replace=True)
    held = third.maps[0]
    assert held.name == "packets_counter_ipv4"
    why = f"its name of 15 characters fits {held.name} as well"
    assert refusal(ns, capsys, *words) == f"reuse map packets_counter_ipv6 (id {held.id}): {why}: {todo}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("max_entries, 5", "max_entries, 8"), "max_entries is 5, the object's is 8"),
        (("PERCPU_ARRAY", "ARRAY"), "type is percpu_array, the object's is array"),
        (("__u64 bytes;", "__u64 bytes; __u64 more;"), "value size is 16, the object's is 24"),
        (
            ("__u64 packets; __u64 bytes;", "__u64 bytes; __u64 packets;"),
            "value field bytes is at octet 8, the object's at 0",
        ),
        (("__u64 packets;", "__u32 packets; __u32 rest;"), "value field packets is uint64, the object's is uint32"),
        (("__u64 bytes; }", "__s64 bytes; }"), "value field bytes is uint64, the object's is int64"),
    ],
)
def test_a_map_of_another_shape_is_refused_by_the_field(ns, made, tmp_path, capsys, change, said):
    first = loading(ns, made, program="counted", pin=True)
    other = compile_bpf(tmp_path, SOURCE.replace(*change))
    words = ("load", LEFT, other, "--program", "counted", "--replace", "--reuse-maps", "--pin")
    what = f"reuse map verdicts (id {first.maps[0].id})"
    assert refusal(ns, capsys, *words) == f"{what}: {said}: load without --reuse-maps to begin with an empty one"


def test_variables_are_set(ns, made):
    done = loading(ns, made, program="counted", variables=["action=1"])
    send_frames(ns, "right", [FRAME])
    deadline = time.monotonic() + 2
    while not counts(done) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(counts(done)) == [1]
