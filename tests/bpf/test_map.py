"""Maps: single and batch operations of every kind of map in use, per-CPU sums, mapped arrays, atomic stores."""

import ipaddress
import os
import threading

import numpy as np
import pytest

from bpf.fixtures import compiled
from hopline.errors import KernelError
from hopline.kernel import (
    BatchError,
    BpfObject,
    Map,
    atomic_add64,
    atomic_load32,
    atomic_load64,
    atomic_store32,
    atomic_store64,
    bpffs,
)
from hopline.kernel.codec import CodecError

HASH, ARRAY = 1, 2


@pytest.fixture
def maps():
    with BpfObject.open(compiled("pipe")) as kernel_object:
        kernel_object.only("pipe")
        kernel_object.load()
        yield kernel_object.map


@pytest.mark.parametrize(
    "key",
    [
        0x0A000001,
        b"\x0a\0\0\x01",
        ipaddress.IPv4Address("10.0.0.1"),
        np.uint32(0x0A000001),
        np.array([0x0A000001], ">u4")[0],
        np.array(0x0A000001, "<u4"),
    ],
)
def test_a_key_is_the_same_however_it_is_given(maps, key):
    table = maps("table")
    assert table.key_dtype.metadata == {"kind": "ip4"}
    assert table.get(key) is None
    table.set(key, 7)
    assert table.get(b"\x0a\0\0\x01") == 7
    assert table.delete(key) is True
    assert table.delete(key) is False


@pytest.mark.parametrize(
    ("key", "value"), [(1 << 32, 1), (-1, 1), (b"12345", 1), (1, b"123"), (1, "x"), (None, 1), ((1, 2), 1)]
)
def test_what_does_not_fit_is_refused(maps, key, value):
    with pytest.raises(CodecError, match=r"map table, (key|value): "):
        maps("table").set(key, value)
    assert len(maps("table").items()[0]) == 0


def test_flags_say_whether_an_element_may_be_there(maps):
    table = maps("table")
    with pytest.raises(KernelError, match="update map table: no such file"):
        table.set(1, 1, flags=2)
    table.set(1, 1, flags=1)
    with pytest.raises(KernelError, match="update map table: file exists"):
        table.set(1, 1, flags=1)


def test_a_large_hash_goes_and_comes_whole(maps):
    table = maps("table")
    keys = np.arange(150_000, dtype="u4") * 7919
    assert table.update_batch(keys, np.arange(150_000)) == 150_000
    found, values = table.items()
    order = np.argsort(found)
    assert np.array_equal(found[order].astype("u4"), np.sort(keys))
    assert np.array_equal(values[order], np.argsort(keys))
    assert table.delete_batch(keys[:100_000]) == 100_000
    assert table.delete_batch(keys[90_000:110_000]) == 10_000
    assert len(table.items()[0]) == 40_000


def test_a_batch_that_stops_says_after_how_many():
    with Map.create(HASH, "small", 4, 4, 100) as small:
        with pytest.raises(BatchError, match="update map small: stopped after 100 elements") as error:
            small.update_batch([i.to_bytes(4, "little") for i in range(150)], [bytes(4)] * 150)
        assert error.value.done == 100
        assert len(small.items()[0]) == 100


@pytest.mark.parametrize(("keys", "values"), [([1, 2, 3], [1, 2]), ([1], [1, 2])])
def test_unequal_batches_are_refused_before_the_kernel_is_asked(maps, keys, values):
    with pytest.raises(CodecError, match="give as many"):
        maps("table").update_batch(keys, values)


def test_empty_batches_do_nothing(maps):
    table = maps("table")
    assert table.update_batch([], []) == 0
    assert table.delete_batch([]) == 0
    assert table.items()[0].shape == (0,)


def test_a_walk_is_complete_while_others_change_the_map(maps):
    table = maps("table")
    stay = np.arange(50_000)
    table.update_batch(stay, stay)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            passing = np.arange(1_000_000, 1_010_000)
            table.update_batch(passing, passing)
            table.delete_batch(passing)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10):
            keys = table.items()[0].astype("u4")
            assert len(np.unique(keys)) == len(keys)
            assert np.array_equal(np.sort(keys[keys < 50_000]), stay)
    finally:
        stop.set()
        thread.join()


def test_an_lpm_trie_takes_tuples_and_batches(maps):
    routes = maps("routes")
    routes.set((24, 0x0A000000), 1)
    assert routes.get((32, 0x0A000005)) == 1
    keys = np.zeros(1000, routes.key_dtype)
    keys["length"], keys["address"] = 32, np.arange(1000) + 0x0B000000
    assert routes.update_batch(keys, np.arange(1000)) == 1000
    assert len(routes.items()[0]) == 1001
    assert routes.delete_batch(keys) == 1000
    assert routes.items()[0].tolist() == [(24, 0x0A000000)]


def test_a_device_map_has_no_batches_and_works_all_the_same(maps):
    devices = maps("devices")
    assert devices.update_batch([3, 60], [1, 1]) == 2
    keys, values = devices.items()
    assert (keys.tolist(), values.tolist()) == ([3, 60], [1, 1])
    with pytest.raises(BatchError) as error:
        devices.update_batch([4, 5, 99], [1, 1, 1])
    assert error.value.done == 2
    assert devices.delete_batch([3, 4, 60]) == 3


def test_per_cpu_values_are_summed(maps):
    counters = maps("counters")
    value = np.zeros((2, counters.ncpu), counters.value_dtype)
    value["packets"] = np.arange(2 * counters.ncpu).reshape(2, -1) + 1
    value["bytes"] = value["packets"] * 100
    counters.update_batch([3, 9], value)
    sums = counters.sums()
    assert sums.shape == (64,)
    assert sums["packets"][3] == value["packets"][0].sum()
    assert sums["bytes"][9] == value["bytes"][1].sum()
    assert sums["packets"].sum() == value["packets"].sum()
    assert counters.get(3).shape == (counters.ncpu,)
    counters.set(3, (0, 0))
    assert counters.sums()["packets"][3] == 0


def test_a_per_cpu_hash_keeps_one_value_a_cpu(maps):
    per_key = maps("per_key")
    per_key.set(7, (1, 2))
    assert per_key.get(7)["packets"].tolist() == [1] * per_key.ncpu
    keys, values = per_key.items()
    assert (keys.tolist(), values.shape) == ([7], (1, per_key.ncpu))
    with pytest.raises(CodecError, match="one a cpu"):
        per_key.set(7, np.zeros(per_key.ncpu + 1, per_key.value_dtype))
    with pytest.raises(KernelError, match="only per-cpu arrays have sums"):
        per_key.sums()


def test_a_mapped_array_is_the_map_itself(maps):
    cells = maps("cells")
    view = cells.mmap()
    assert view.shape == (1000,)
    assert view.strides == ((cells.value_size + 7) // 8 * 8,)
    view["word"][999] = 5
    assert cells.get(999)["word"] == 5
    cells.set(998, (1, 2, 3, [4, 5, 6, 7]))
    assert view[998].tolist()[:3] == (1, 2, 3)
    cells.close()
    assert view["high"][998] == 2  # the view keeps the mapping


def test_values_that_are_no_multiple_of_eight_keep_their_stride():
    flags = 1 << 10
    with Map.create(ARRAY, "odd", 4, 12, 500, flags, value_dtype=np.dtype([("a", "u8"), ("b", "u4")])) as odd:
        view = odd.mmap()
        view["b"] = np.arange(500)
        assert [int(odd.get(i)["b"]) for i in (0, 1, 499)] == [0, 1, 499]


def test_atomic_stores_reach_one_field(maps):
    cells = maps("cells")
    view = cells.mmap()
    element = view["word"][5:6]
    atomic_store64(element, 9)
    assert atomic_add64(element, -1) == 9
    assert atomic_load64(element) == 8
    atomic_store32(view["low"][5:6], 3)
    assert atomic_load32(view["low"][5:6]) == 3
    assert cells.get(5)[["word", "low", "high"]].tolist() == (8, 3, 0)
    assert not view["word"][[4, 6]].any()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: atomic_store64(m.mmap()["word"], 1), TypeError),
        (lambda m: atomic_store64(m.mmap()["low"][0:1], 1), TypeError),
        (lambda m: atomic_store64(np.zeros(12, "u1")[4:12].view("u1"), 1), ValueError),
        (lambda m: atomic_store64(m.mmap()["word"][0:1], 1 << 64), OverflowError),
    ],
)
def test_a_store_of_another_size_or_unaligned_is_refused(maps, call, error):
    with pytest.raises(error):
        call(maps("cells"))
    assert not maps("cells").mmap()["word"].any()


def test_a_map_that_cannot_be_mapped_says_so(maps):
    with pytest.raises(KernelError, match="declare it an array with BPF_F_MMAPABLE"):
        maps("table").mmap()


def test_a_pinned_map_knows_its_types_from_the_kernel(maps):
    directory = bpffs.instance_dir(f"hl-test-{os.getpid()}")
    try:
        table, routes = maps("table"), maps("routes")
        for pinned in (table, routes):
            pinned.pin(directory / pinned.name)
        again = Map.from_pin(directory / "routes")
        assert (again.id, again.key_dtype, again.value_dtype) == (routes.id, routes.key_dtype, routes.value_dtype)
        assert Map.from_pin(directory / "table").key_dtype.metadata == {"kind": "ip4"}
        with pytest.raises(KernelError, match="file exists"):
            table.pin(directory / "routes")
        with pytest.raises(KernelError, match=r"open pin .*nobody: no such file"):
            Map.from_pin(directory / "nobody")
        again.unpin()
        again.unpin()
        assert not (directory / "routes").exists()
        assert Map.from_id(table.id).max_entries == 200_000
    finally:
        for left in directory.iterdir():
            left.unlink()
        directory.rmdir()


def test_a_map_without_btf_holds_raw_bytes():
    with Map.create(HASH, "raw_bytes_and_long_name", 6, 3, 10) as raw:
        raw.set(b"123456", b"abc")
        assert bytes(raw.get(b"123456")) == b"abc"
        keys, values = raw.items()
        assert (bytes(keys[0]), bytes(values[0])) == (b"123456", b"abc")
        assert raw.name == "raw_bytes_and_long_name"
        assert Map.from_id(raw.id).name == "raw_bytes_and_l"


def test_octet_rows_are_keys():
    with Map.create(HASH, "six", 16, 4, 100, value_dtype=np.dtype("u4")) as six:
        rows = np.arange(160, dtype=np.uint8).reshape(10, 16)
        assert six.update_batch(rows, range(10)) == 10
        assert six.get(rows[3].tobytes()) == 3
        assert six.get(ipaddress.IPv6Address(rows[4].tobytes())) == 4


@pytest.mark.parametrize("name", ["table", "routes", "devices", "counters"])
def test_a_stream_has_what_items_have_as_octets(maps, name):
    """In batches, with repeated keys dropped, one by one, and per CPU."""
    table = maps(name)
    if name == "devices":
        table.set(3, 1)  # loopback
    elif name == "routes":
        table.update_batch([(24, n << 8) for n in range(3000)], np.arange(3000))
    else:
        table.update_batch(np.arange(64), np.ones(64, table.value_dtype))
    with Map.from_id(table.id, typed=False) as raw:
        parts = [(keys.copy(), values.copy()) for keys, values in raw.stream()]
        keys, values = raw.items()
    found = {key.tobytes(): value.tobytes() for some in parts for key, value in zip(*some, strict=True)}
    assert found == {key.tobytes(): value.tobytes() for key, value in zip(keys, values, strict=True)}
    assert sum(len(some) for some, _ in parts) == len(keys) > 0


def test_whether_a_trie_holds_this_very_prefix(maps):
    routes = maps("routes")
    assert not routes.holds((8, 0x0A000000))
    for key in ((8, 0x0A000000), (16, 0x0A010000), (0, 0)):
        routes.set(key, 1)
        assert routes.holds(key)
        assert not routes.holds((32, 0x0A010203)), "a shorter prefix around it is another"
    assert not routes.holds((9, 0x0A000000))
    table = maps("table")
    table.set(1, 0)
    assert (table.holds(1), table.holds(2)) == (True, False)
