"""Notes are found through BTF: a step that nobody has words for is shown under the names that it gave its fields."""

import shutil

import numpy as np
import pytest

from clang import compile_bpf
from daemon.explain.scenes import hop, scene
from hopline.daemon.explain.notes import enum_text, notes_of, read_note, said
from hopline.daemon.explain.steps import steps_of
from hopline.errors import LayoutError
from hopline.kernel.btf import Kind
from hopline.kernel.record import Layout
from repository import ROOT

# the program's own layouts, with a record that two more steps note things in
SOURCE = """
#include <stdbool.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#define trace_event trace_event_of_old
#include "%s/layout.h"
#undef trace_event

enum pass { FLOW_NONE = 0, FLOW_NEW = 1, FLOW_KNOWN = 2 };
enum mirror_flag { MIRROR_OPEN = 1, MIRROR_WEIGHTED = 2, MIRROR_DRAINED = 8 };
struct mirror_note {
	__u32 service;
	__s32 slot;
	enum pass flow;
	enum mirror_flag flags;
	ip4_t outer;
	ip6_t backend;
	ip6_t next_hop;
	mac_t mac;
	mac_word_t word;
	__be16 port;
	__u16 tries[3];
	bool sure;
	char name[8];
	struct {
		__u8 version;
		__u8 bits;
	} ring;
	__u64 reserved;
};
struct tap_note { __u32 matched; };
struct trace_event {
	__u64 time;
	__u32 ifindex;
	enum verdict verdict;
	struct packet packet;
	struct tap_note tap;
	struct forward_note forward;
	struct mirror_note mirror;
	struct counter not_a_note;
};
struct trace_event *anchor_noted __attribute__((section("layout"), used));
"""

pytestmark = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    directory = tmp_path_factory.mktemp("notes")
    source = SOURCE % (ROOT / "src" / "hopline" / "bpf" / "lib")
    return Layout.from_elf(compile_bpf(directory, source, "noted"))


@pytest.fixture
def event(layout):
    event = np.zeros(1, layout.struct("trace_event"))[0]
    note = event["mirror"]
    note["service"], note["slot"], note["flow"], note["flags"] = 7, -1, 2, 9
    note["outer"] = 0x0A000001
    note["backend"] = np.void(bytes([10, 0, 0, 9]) + bytes(12))
    note["next_hop"] = np.void(bytes.fromhex("20010db8000000000000000000000009"))
    note["mac"] = np.void(bytes.fromhex("020000000009"))
    note["word"] = int.from_bytes(bytes.fromhex("02000000000a"), "little") | 1500 << 48
    note["port"], note["tries"], note["sure"], note["name"] = 443, [1, 2, 3], True, b"web"
    note["ring"]["version"], note["ring"]["bits"] = 3, 12
    return event


def test_a_note_is_a_struct_named_after_its_member_and_stands_in_the_order_of_the_steps(layout):
    assert list(notes_of(layout)) == ["packet", "tap", "forward", "mirror"]


def test_every_kind_of_field_is_read(layout, event):
    assert read_note(layout, notes_of(layout)["mirror"], event["mirror"]) == {
        "service": 7,
        "slot": -1,
        "flow": "FLOW_KNOWN",
        "flags": "MIRROR_OPEN MIRROR_DRAINED",
        "outer": "10.0.0.1",
        "backend": "10.0.0.9",
        "next_hop": "2001:db8::9",
        "mac": "02:00:00:00:00:09",
        "word": "02:00:00:00:00:0a 1500",
        "port": 443,
        "tries": [1, 2, 3],
        "sure": True,
        "name": "web",
        "ring": {"version": 3, "bits": 12},
    }


def test_it_is_said_in_one_line(layout, event):
    line = said("mirror", read_note(layout, notes_of(layout)["mirror"], event["mirror"]))
    assert line == (
        "mirror: service 7, slot -1, flow FLOW_KNOWN, flags MIRROR_OPEN MIRROR_DRAINED, outer 10.0.0.1, "
        "backend 10.0.0.9, next hop 2001:db8::9, mac 02:00:00:00:00:09, word 02:00:00:00:00:0a 1500, port 443, "
        "tries 1 2 3, sure yes, name web, ring (version 3, bits 12)"
    )


def test_a_step_that_is_new_explains_itself_between_those_that_have_words(layout, event):
    made = scene("FORWARDED", layout=layout, lookups=("CACHE",), found="CACHE", state="READY", **hop(id=16))
    made.event["mirror"] = event["mirror"]
    found = [step.step for step in steps_of(made)]
    assert found[-3:] == ["mtu", "mirror", "verdict"]
    assert "tap" not in found  # it noted nothing
    assert steps_of(made)[-2].says.startswith("mirror: service 7, slot -1, flow FLOW_KNOWN")


def test_numbers_that_an_enum_has_no_name_for(layout):
    flags = layout.btf.find(Kind.ENUM, "mirror_flag")
    assert [enum_text(flags, value) for value in (0, 1, 3, 16, 17)] == [
        "none",
        "MIRROR_OPEN",
        "MIRROR_OPEN MIRROR_WEIGHTED",
        "0x10",
        "MIRROR_OPEN 0x10",
    ]
    assert enum_text(layout.btf.find(Kind.ENUM, "pass"), 0) == "FLOW_NONE"


def test_an_object_without_the_record_is_of_another_version(layout):
    with pytest.raises(LayoutError, match="no struct missing"):
        notes_of(layout, "missing")
