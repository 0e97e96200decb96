"""Frames decoded: the one that came in, and the one that leaves, with what was changed in it."""

from hopline.daemon.explain.scene import Scene
from hopline.explain import Decoded, Field, Layer
from hopline.features.dissect import Header, dissect

UDP_HEADER = 8


def decoded(frame: bytes) -> Decoded:
    """Return a frame decoded."""
    return _decoded(frame, dissect(frame), [])


def left_decoded(scene: Scene) -> Decoded | None:
    """Return the packet that leaves, or that the kernel gets in place of what came in; None where there is none.

    Beside each header stands what it held before: an outer one is not held against the inner one that was in its place.
    """
    if not scene.sent and scene.verdict != "DECAPSULATED":
        return None
    before, after = dissect(scene.frame, tunnel=True), dissect(scene.left, tunnel=True)
    if scene.verdict == "BALANCED":
        before = [*before[:1], *_none(scene, "balance"), *before[1:]]
    elif scene.verdict == "DECAPSULATED":
        before = [*before[:1], *before[1 + len(_none(scene, "decap")) :]]
    elif scene.verdict == "ANSWERED_ERROR":
        before = before[:1]
    return _decoded(scene.left, after, before)


def _none(scene: Scene, step: str) -> list[Header]:
    """Stand for the outer headers that a step puts on or takes off: IP, and UDP's where it is GUE."""
    gue = int(scene.event[step]["overhead"]) % 20 == UDP_HEADER
    return [Header("", (), 0)] * (2 if gue else 1)


def _decoded(frame: bytes, headers: list[Header], before: list[Header]) -> Decoded:
    layers = []
    for place, header in enumerate(headers):
        was = dict(before[place].fields) if place < len(before) and before[place].name == header.name else {}
        fields = [Field(n, v, was[n] if was.get(n, v) != v else None) for n, v in header.fields]
        layers.append(Layer(header.name, fields))
    return Decoded(len(frame), frame.hex(), layers)
