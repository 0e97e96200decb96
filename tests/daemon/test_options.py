"""What `serve` is told: each setting that cannot be is named with its option, before anything is touched."""

import grp
import math
import shutil

import pytest

from daemon.certificates import self_signed
from hopline.daemon.options import parse_group, serve_options
from hopline.errors import InvalidInput

LOOPBACK = ["127.0.0.1:7000"]


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"admin {'a' * 16}\n")
    path.chmod(0o600)
    return path


def test_what_is_not_told_has_a_default():
    options = serve_options()
    assert (options.tcp, options.metrics, options.view_group, options.check_every) == (None, None, None, 60.0)


def test_tcp_has_tokens_and_beyond_loopback_tls(tmp_path, tokens):
    options = serve_options(listen=["127.0.0.1:7000", "[::1]:7000", "127.0.0.1:7000"], token_file=tokens)
    assert [str(endpoint) for endpoint in options.tcp.endpoints] == ["127.0.0.1:7000", "[::1]:7000"]
    assert options.tcp.tls is None
    assert len(options.tcp.tokens) == 1
    if shutil.which("openssl"):
        cert, key = self_signed(tmp_path)
        options = serve_options(listen=["0.0.0.0:7000"], token_file=tokens, tls_cert=cert, tls_key=key)
        assert options.tcp.tls is not None


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"listen": LOOPBACK}, "listen", "--token-file"),
        ({"token_file": "x"}, "token-file", "without --listen"),
        ({"tls_cert": "x", "tls_key": "y"}, "tls-cert", "without --listen"),
        ({"listen": LOOPBACK, "token_file": "TOKENS", "tls_cert": "x"}, "tls-cert", "without --tls-key"),
        ({"listen": LOOPBACK, "token_file": "TOKENS", "tls_key": "x"}, "tls-key", "without --tls-cert"),
        ({"listen": [*LOOPBACK, "0.0.0.0:7000"], "token_file": "TOKENS"}, "listen", "0.0.0.0:7000 can be reached"),
        ({"listen": ["[::]:7000"], "token_file": "TOKENS"}, "listen", "other hosts"),
        ({"listen": ["localhost:7000"], "token_file": "TOKENS"}, "listen", "numeric"),
        ({"listen": LOOPBACK, "token_file": "none"}, "token-file", "no such file"),
        ({"metrics": "9100"}, "metrics", "ADDR:PORT"),
        ({"metrics": "127.0.0.1:0"}, "metrics", "port"),
        ({"view_group": "no such group"}, "view-group", "no group"),
        ({"check_every": 0.5}, "check-every", "1 to 86400"),
        ({"check_every": math.nan}, "check-every", "out of range"),
        ({"check_every": math.inf}, "check-every", "out of range"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(tokens, given, field, says):
    given = {name: tokens if value == "TOKENS" else value for name, value in given.items()}
    with pytest.raises(InvalidInput) as caught:
        serve_options(**given)
    assert caught.value.field == field
    assert says in str(caught.value)


def test_a_group_has_a_name_or_a_number():
    some = grp.getgrall()[-1]
    assert parse_group(some.gr_name) == parse_group(str(some.gr_gid)) == some.gr_gid
    assert parse_group("4000000000") == 4_000_000_000
    for wrong in ("", "-1", "4294967295", "4294967296", "a\0b"):
        with pytest.raises(InvalidInput):
            parse_group(wrong)
