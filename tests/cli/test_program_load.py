"""`hopline program load` and `unload`: words that do not go together are wrong usage, and nothing is tried."""

import pytest

from hopline.cli import main as cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["load"], "missing argument '[DEV] FILE'"),
        (["load", "x.o"], "give a device and a file, or --route and a file"),
        (["load", "eth0", "x.o", "y.o"], "give a device and a file, or --route and a file"),
        (["load", "eth0", "x.o", "--hook", "xmit"], "--hook is for routes: give --route too"),
        (["load", "eth0", "x.o", "--headroom", "20"], "--headroom is for routes: give --route too"),
        (["load", "eth0", "x.o", "--mode", "fast"], "'fast' is not one of 'auto', 'native', 'generic', 'offload'"),
        (["load", "eth0", "x.o", "--for", "never"], "write 60s, 5m or 1h"),
        (
            ["load", "--route", "10.0.0.0/8", "eth0", "x.o", "--hook", "in"],
            "with --route give no device but a file",
        ),
        (["load", "--route", "10.0.0.0/8", "x.o"], "give --hook with --route: in, out, xmit or seg6local"),
        (["load", "--route", "10.0.0.0/8", "--hook", "in", "x.o", "--pin"], "--pin is for devices: leave it out"),
        (["load", "--route", "10.0.0.0/8", "--hook", "in", "x.o", "--mode", "native"], "--mode is for devices"),
        (["load", "--route", "10.0.0.0/8", "--hook", "in", "x.o", "--headroom", "257"], "257 is not in the range"),
        (["load", "eth0", ""], "an empty word is no device and no file"),
        (["load", "eth0", "x.o", "--program", ""], "--program is empty"),
        (["load", "--route", "", "x.o"], "--route is empty"),
        (["unload", ""], "an empty word is no device and no file"),
        (["unload", "eth0", "--program", ""], "--program is empty"),
        (["unload"], "give a device or --route, one of them"),
        (["unload", "eth0", "--route", "10.0.0.0/8"], "give a device or --route, one of them"),
        (["unload", "eth0", "--all", "--id", "7"], "--all means more than --program or --id: give one"),
        (["unload", "eth0", "--id", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage(capsys, words, said):
    assert cli.main(["program", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert err.endswith("--help`\n")
