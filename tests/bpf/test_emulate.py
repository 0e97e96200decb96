"""The emulator of bench/emulate: it does what the kernel does, and counts what one would count by hand."""

import random

import pytest
from emulate import Fault, emulated
from emulate.helpers import Helpers

from bpf import mill
from bpf.frames import Case, ip4
from bpf.paths import counted, obstacle
from bpf.pipeline import XDP_PASS, Pipeline
from bpf.test_forward import CASES
from clang import compile_bpf
from hopline.kernel import BpfObject

PLAIN = [case for case in CASES if case.prepare is None]


@pytest.fixture(scope="module", autouse=True)
def countable(_pipeline: Pipeline) -> None:
    """Skip where nothing can be counted, and say why."""
    if reason := obstacle(_pipeline.program):
        pytest.skip(reason)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_the_emulator_does_with_a_packet_what_the_kernel_does(world: Pipeline, case: Case):
    # twice: asked of the tables, then out of the cache; counted() compares the packet and all that is written
    cold, warm = (counted(world, case.packet, case.verdict) for _ in range(2))
    assert warm.instructions <= cold.instructions


BY_HAND = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} four SEC(".maps");

SEC("xdp")
int down_from_ten(struct xdp_md *ctx __attribute__((unused)))
{
	long i = 10;

	asm volatile("again_%=: %0 += -1; if %0 != 0 goto again_%=" : "+r"(i));
	return XDP_PASS;
}

SEC("xdp")
int add_to_the_third(struct xdp_md *ctx __attribute__((unused)))
{
	__u32 at = 2;
	__u64 *third = bpf_map_lookup_elem(&four, &at);

	if (third)
		*third += 5;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""


def test_counts_are_those_that_one_counts_by_hand(tmp_path):
    with BpfObject.open(compile_bpf(tmp_path, BY_HAND)) as opened:
        opened.load()
        loop = emulated(opened.program("down_from_ten"), bytes(64), 0)
        # i = 10, ten times two, r0 = XDP_PASS, exit
        assert (loop.instructions, loop.normal, loop.action, loop.lines) == (23, 23, XDP_PASS, {})
        third = emulated(opened.program("add_to_the_third"), bytes(64), 0)
        # at = 2, to the stack, r2 = its address in two, r1 = map, look-up, NULL?, load, add, store, return in two
        assert third.normal == 12
        assert third.lookups == {"four": 1}
        assert third.lines == {"stack": 1, "four": 1}
        assert third.written == {"four": {2: (5).to_bytes(8, "little")}}
        # and it was the emulator's copy of the map
        assert int(opened.map("four").get(2)) == 0


@pytest.mark.parametrize("seed", range(8))
def test_arithmetic_is_the_kernels(tmp_path, seed):
    draw = random.Random(seed)
    with BpfObject.open(compile_bpf(tmp_path, mill.source(seed))) as opened:
        opened.load()
        program, ground = opened.program("mill"), opened.map("ground")
        for _ in range(8):
            ground.set(0, mill.inputs(draw))
            cost = emulated(program, bytes(64), 0)
            assert (cost.action, program.test_run(bytes(64)).retval) == (XDP_PASS, XDP_PASS)
            assert cost.written["ground"][0].hex() == ground.get(0).tobytes().hex()


def test_a_helper_that_the_emulator_does_not_know_is_no_helper_that_costs_nothing(pipeline: Pipeline, monkeypatch):
    known = Helpers.call

    def forgetful(self, name: str, arguments: list[int]) -> int:
        return known(self, "bpf_of_tomorrow" if name == "bpf_redirect_map" else name, arguments)

    monkeypatch.setattr(Helpers, "call", forgetful)
    pipeline.learn()
    with pytest.raises(Fault, match="no helper bpf_of_tomorrow: teach it"):
        counted(pipeline, ip4("10.0.2.2"), "FORWARDED")
