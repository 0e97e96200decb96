"""Token files: what is read, what is refused and on which line, and that no message shows a token."""

import os

import pytest

from hopline.daemon.tokens import known, read_tokens
from hopline.errors import InvalidInput

ADMIN = "a" * 32
VIEW = "v-._~+/0123456789=="


def written(path, text, mode=0o600):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_each_line_is_a_token(tmp_path):
    text = f"# who may\n\nadmin {ADMIN} laptop\nview\t{VIEW}   # of a screen\n  view {'w' * 16} w@home\n"
    tokens = read_tokens(written(tmp_path / "tokens", text))
    assert [(token.right, token.name) for token in tokens] == [
        ("admin", "laptop"),
        ("view", "line-4"),
        ("view", "w@home"),
    ]
    assert known(tokens, ADMIN.encode()).name == "laptop"
    assert known(tokens, VIEW.encode()).right == "view"
    for wrong in (b"", ADMIN[:-1].encode(), ADMIN.upper().encode(), ADMIN.encode() + b"a", b"\xff" * 32):
        assert known(tokens, wrong) is None
    assert ADMIN not in repr(tokens)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "holds no token"),
        ("# nothing\n", None, "holds no token"),
        ("root 0123456789abcdef\n", 1, "admin or view"),
        ("0123456789abcdef\n", 1, "admin or view"),
        ("\nadmin\n", 2, "no token after admin"),
        ("admin 0123456\n", 1, "7 characters"),
        (f"admin {'x' * 513}\n", 1, "513 characters"),
        (f"admin {ADMIN}\nview {ADMIN}\n", 2, "also on line 1"),
        (f"view {VIEW} a b\n", 1, "more than a token and a name"),
        (f"view {VIEW} a/b\n", 1, "cannot name"),
        ("view 0123456789abcdef!\n", 1, "character"),
        ("view =0123456789abcdef\n", 1, "character"),
        ("view 0123456789äbcdef\n", 1, "character"),
        (b"#\nview \xff0123456789abcdef\n", 2, "UTF-8"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, text, line, says):
    path = written(tmp_path / "tokens", text)
    with pytest.raises(InvalidInput) as caught:
        read_tokens(path)
    assert caught.value.field == "token-file"
    assert caught.value.detail.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert says in caught.value.detail
    assert "0123456789" not in str(caught.value)
    assert ADMIN not in str(caught.value)


@pytest.mark.parametrize("line", [f"{ADMIN} admin me", f"admin:{ADMIN} me", f"{ADMIN}:admin:me"])
def test_right_and_token_may_change_places_and_have_a_colon_between(tmp_path, line):
    (token,) = read_tokens(written(tmp_path / "tokens", f"{line}\n"))
    assert (token.right, token.name) == ("admin", "me")
    assert known([token], ADMIN.encode()) is token


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path, mode):
    with pytest.raises(InvalidInput, match="chmod 600"):
        read_tokens(written(tmp_path / "tokens", f"admin {ADMIN}\n", mode))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_taken_and_that_is_said(tmp_path, mode, caplog):
    assert read_tokens(written(tmp_path / "tokens", f"admin {ADMIN}\n", mode))
    assert "others than its owner may read the tokens: chmod 600" in caplog.text


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, says in (("none", "no such file"), ("pipe", "regular file"), (".", "directory|regular")):
        with pytest.raises(InvalidInput, match=says):
            read_tokens(tmp_path / name)
    with pytest.raises(InvalidInput, match="larger"):
        read_tokens(written(tmp_path / "long", "#" * (1 << 20) + "\n"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_another_user_s_file_is_refused(tmp_path):
    path = written(tmp_path / "tokens", f"admin {ADMIN}\n")
    os.chown(path, 65534, 65534)
    with pytest.raises(InvalidInput, match="belongs to uid 65534"):
        read_tokens(path)
