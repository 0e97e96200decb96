"""A certificate and its key are looked at before anything is touched."""

import shutil

import pytest

from daemon.certificates import self_signed
from hopline.daemon.tls import server_context
from hopline.errors import InvalidInput

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def test_a_certificate_and_its_key_are_taken(tmp_path):
    assert server_context(*self_signed(tmp_path)).minimum_version >= 0x303


def test_what_cannot_be_used_is_named(tmp_path):
    cert, key = self_signed(tmp_path)
    other, other_key = self_signed(tmp_path, "other")
    locked, locked_key = self_signed(tmp_path, "locked", "-passout", "pass:secret")
    text = tmp_path / "text"
    text.write_text("hello\n")
    empty = tmp_path / "empty"
    empty.write_text("")
    for given, field, says in (
        ((cert, other_key), "tls-key", "is not the key of"),
        ((tmp_path / "none", key), "tls-cert", "no such file"),
        ((cert, tmp_path / "none"), "tls-key", "no such file"),
        ((cert, tmp_path), "tls-key", "is a directory"),
        ((text, key), "tls-cert", "holds no certificate"),
        ((empty, key), "tls-cert", "holds no certificate"),
        ((key, key), "tls-cert", "holds no certificate"),
        ((cert, text), "tls-key", "holds no private key"),
        ((cert, cert), "tls-key", "holds no private key"),
        ((locked, locked_key), "tls-key", "needs a passphrase"),
    ):
        with pytest.raises(InvalidInput, match=says) as caught:
            server_context(*given)
        assert caught.value.field == field
    assert other.exists()
