"""The kernel from Python, without a daemon: objects, programs, maps, XDP links, ring buffers, namespaces."""

from hopline.kernel.atomic import atomic_add64, atomic_load32, atomic_load64, atomic_store32, atomic_store64
from hopline.kernel.foreign import replace_foreign
from hopline.kernel.handle import BatchError
from hopline.kernel.link import Attached, XdpLink, query
from hopline.kernel.map import Map
from hopline.kernel.netns import run_in
from hopline.kernel.object import BpfObject
from hopline.kernel.program import Program, ProgramInfo, TestRun, has_helper
from hopline.kernel.record import Layout
from hopline.kernel.ring import RingBuffer, Span

__all__ = [
    "Attached",
    "BatchError",
    "BpfObject",
    "Layout",
    "Map",
    "Program",
    "ProgramInfo",
    "RingBuffer",
    "Span",
    "TestRun",
    "XdpLink",
    "atomic_add64",
    "atomic_load32",
    "atomic_load64",
    "atomic_store32",
    "atomic_store64",
    "has_helper",
    "query",
    "replace_foreign",
    "run_in",
]
