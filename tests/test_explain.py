"""What may be asked of `explain`: checked before anything is run, each mistake named by its field."""

import msgspec
import pytest

from hopline.errors import InvalidInput
from hopline.explain import BATCH_FRAMES, Batch, Question, checked_batch, checked_question

FRAME = "02" * 60


@pytest.mark.parametrize(
    "question",
    [
        Question(dst="10.2.0.2"),
        Question(dst="fd00::2", src="fd00::1", protocol="icmp", ttl=0, size=1280, vlan=4094, in_dev="left"),
        Question(dst="10.2.0.2", protocol="6", flags="SA", sport=0, dport=65535),
        Question(hex=FRAME, length=60),
        Question(hex=FRAME, length=65557, in_dev="left"),
    ],
)
def test_what_is_right_stays_as_it_is(question):
    assert checked_question(question) is question


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (Question(), "dst"),
        (Question(src="10.1.0.2"), "dst"),
        (Question(dst="10.2.0.2", hex=FRAME), "dst"),
        (Question(hex=FRAME, ttl=3), "ttl"),
        (Question(hex=FRAME, length=59), "length"),
        (Question(hex=FRAME, length=65558), "length"),
        (Question(dst="10.2.0.2", length=60), "length"),
        (Question(hex="xyz"), "hex"),
        (Question(dst="10.2.0.2", in_dev="a/b"), "in"),
        (Question(dst="10.2.0.2", in_dev=""), "in"),
        (Question(dst="10.2.0.2", src="fd00::1"), "src"),
        (Question(dst="10.2.0.2", protocol="icmp", dport=80), "dport"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(question, field):
    with pytest.raises(InvalidInput) as caught:
        checked_question(question)
    assert caught.value.field == field
    assert caught.value.hint


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        (Batch(frames=[]), "frames"),
        (Batch(frames=[bytes(60)] * (BATCH_FRAMES + 1)), "frames"),
        (Batch(frames=[bytes(60), bytes(13)]), "frames[1]"),
        (Batch(frames=[bytes(65558)]), "frames[0]"),
        (Batch(frames=[bytes(60)] * 2, lengths=[60]), "lengths"),
        (Batch(frames=[bytes(60)] * 2, lengths=[60, 59]), "lengths[1]"),
        (Batch(frames=[bytes(60)], lengths=[65558]), "lengths[0]"),
        (Batch(frames=[bytes(60)], in_dev="a b"), "in"),
    ],
)
def test_a_batch_is_checked_frame_by_frame(batch, field):
    with pytest.raises(InvalidInput) as caught:
        checked_batch(batch)
    assert caught.value.field == field


def test_a_batch_that_is_right():
    batch = Batch(frames=[bytes(14), bytes(60)], lengths=[14, 65557], in_dev="left")
    assert checked_batch(batch) is batch


def test_the_json_says_in_where_python_says_in_dev():
    assert msgspec.json.decode(b'{"in": "left", "dst": "10.2.0.2"}', type=Question).in_dev == "left"
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"in_dev": "left"}', type=Question)
    assert msgspec.json.encode(Batch(frames=[b"abc"])) == b'{"in":null,"frames":["YWJj"],"lengths":null}'
