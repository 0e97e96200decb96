"""Keys and values between Python and the bytes a map holds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hopline.errors import HoplineError

# enum bpf_map_type of include/uapi/linux/bpf.h
ARRAY = 2
PROG_ARRAY = 3
PERCPU_HASH = 5
PERCPU_ARRAY = 6
LRU_PERCPU_HASH = 10
LPM_TRIE = 11
DEVMAP = 14
CPUMAP = 16
XSKMAP = 17
DEVMAP_HASH = 25
RINGBUF = 27

PER_CPU = frozenset((PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH, 21))  # 21: PERCPU_CGROUP_STORAGE
ARRAYS = frozenset((ARRAY, PERCPU_ARRAY))
INDEXED = ARRAYS | {PROG_ARRAY, DEVMAP, CPUMAP, XSKMAP, DEVMAP_HASH}

DType = np.dtype[Any]
# what get() and set() take for one key or value
Element = Any


class CodecError(HoplineError, TypeError):
    """A key or value does not fit the map's type."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a map holds, as declared: sizes in bytes, dtypes None where no BTF says more."""

    type: int
    key_size: int
    value_size: int
    key_dtype: DType | None = None
    value_dtype: DType | None = None


def default_dtypes(shape: Shape) -> tuple[DType, DType]:
    """Key and value dtype where BTF says nothing: indices and device numbers as u32, all else raw bytes."""
    key = np.dtype("u4") if shape.type in INDEXED and shape.key_size == 4 else np.dtype(f"V{shape.key_size}")
    value = np.dtype(f"V{shape.value_size}")
    if shape.type in (DEVMAP, DEVMAP_HASH):
        if shape.value_size == 4:
            value = np.dtype("u4")
        elif shape.value_size == 8:  # struct bpf_devmap_val
            value = np.dtype([("ifindex", "u4"), ("program", "u4")])
    return (
        key if shape.key_dtype is None or shape.key_dtype.itemsize != shape.key_size else shape.key_dtype,
        value if shape.value_dtype is None or shape.value_dtype.itemsize != shape.value_size else shape.value_dtype,
    )


def encode(dtype: DType, element: Element, what: str) -> bytes:
    """The bytes of one element given as int, bytes, tuple, ipaddress address, NumPy scalar, record or array."""
    size = dtype.itemsize
    if isinstance(element, (bytes, bytearray, memoryview)):
        raw = bytes(element)
    elif hasattr(element, "packed"):  # ipaddress.IPv4Address, IPv6Address
        raw = element.packed
    elif isinstance(element, np.void) or (isinstance(element, np.ndarray) and element.dtype == dtype):
        raw = element.tobytes()
    elif isinstance(element, (int, np.integer)) and dtype.kind == "V" and dtype.names is None and not dtype.subdtype:
        raw = int(element).to_bytes(size, "little")
    else:
        raw = _convert(dtype, element, what)
    if len(raw) != size:
        raise CodecError(f"{what}: {len(raw)} bytes given: give {size}")
    return raw


def _convert(dtype: DType, element: Element, what: str) -> bytes:
    if isinstance(element, (np.integer, np.ndarray)) and dtype.kind in "ui" and element.size == 1:
        element = element.item()  # NumPy wraps its own integers silently, Python's not
    # zeros first: padding between fields is part of a key
    whole = np.zeros((), dtype)
    try:
        whole[...] = element
        return whole.tobytes()
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"{what}: {element!r} does not fit {dtype}: {error}") from error


def encode_many(dtype: DType, elements: Any, what: str) -> NDArray[Any]:
    """A contiguous array of elements, whose raw bytes are what the kernel wants; no copy if it is one already."""
    base, inner = dtype.subdtype if dtype.subdtype else (dtype, ())
    if not isinstance(elements, np.ndarray):
        elements = list(elements)
        if elements and not isinstance(elements[0], (int, np.generic)):
            raw = b"".join(encode(dtype, element, what) for element in elements)
            return strided(raw, (len(elements),), dtype, (dtype.itemsize,))
    try:
        array = _raw(elements, dtype) if isinstance(elements, np.ndarray) else None
        if array is None:
            array = np.zeros(np.shape(elements), base)
            array[...] = elements
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"{what}: does not fit {dtype}: {error}") from error
    if array.shape[array.ndim - len(inner) :] != tuple(inner):
        raise CodecError(f"{what}: shape {array.shape}: give one row of {inner} an element")
    return array


def _raw(elements: NDArray[Any], dtype: DType) -> NDArray[Any] | None:
    """Records, and rows of octets, are taken as they lie in memory; None where values have to be converted."""
    base, size = dtype.base, dtype.itemsize
    if elements.dtype.itemsize == base.itemsize and "V" in (elements.dtype.kind, base.kind):
        return np.ascontiguousarray(elements).view(base)
    if elements.dtype == np.uint8 and elements.ndim == 2 and elements.shape[1] == size and not dtype.subdtype:
        return np.ascontiguousarray(elements).view(base)[:, 0]
    return None


def strided(buffer: Any, shape: tuple[int, ...], dtype: DType, strides: tuple[int, ...]) -> NDArray[Any]:
    """A view of `buffer` as an array of `dtype`, whose own array part, if any, becomes trailing dimensions."""
    if dtype.subdtype is None:
        return np.ndarray(shape, dtype, buffer, 0, strides)
    base, inner = dtype.subdtype
    steps = [base.itemsize]
    for length in reversed(inner[1:]):
        steps.insert(0, steps[0] * length)
    return np.ndarray(shape + inner, base, buffer, 0, strides + tuple(steps))
