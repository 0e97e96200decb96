"""What a kernel must have for the pipeline, and how one that has it not is refused (kernel/needs.py)."""

import subprocess

import hopline.daemon.main
from bpf.pipeline import open_pipeline
from hopline.daemon.options import ServeOptions
from hopline.errors import VerifierRefusal
from hopline.host.doctor import examine
from hopline.kernel import needs
from hopline.lab.shell import environment, hopline_command

RETURN_ZERO = ((0xB7, 0, 0, 0), (0x95, 0, 0, 0))
RETURN_GARBAGE = ((0x95, 0, 0, 0),)


def test_the_verifier_is_asked():
    assert needs._loads(RETURN_ZERO)
    assert not needs._loads(RETURN_GARBAGE)


def test_the_answer_is_what_becomes_of_the_pipeline():
    try:
        with open_pipeline():
            loaded = True
    except VerifierRefusal:
        loaded = False
    assert loaded is (needs.lacks() == "")


def test_a_daemon_does_not_start_where_the_pipeline_cannot_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("os.umask", lambda mask: mask)  # it would be this process's from here on
    monkeypatch.setattr(hopline.daemon.main, "lacks", lambda: "it has no such thing: boot another")
    options = ServeOptions(instance="hl-needs", state=tmp_path / "state", run=tmp_path / "run")
    assert hopline.daemon.main.run(options) == 1
    said = capsys.readouterr().err
    assert said.endswith("cannot run the pipeline: it has no such thing: boot another\n")
    assert list(tmp_path.iterdir()) == []


def test_this_kernel_is_served_or_refused_by_name(tmp_path):
    reason, found = needs.lacks(), [finding for finding in examine([]) if finding.subject == "xdp"]
    assert [finding.level for finding in found] == ["fail" if reason else "ok"]
    if reason:
        assert found[0].text.endswith(f"cannot run the pipeline: {reason}")
        place = ("--state", str(tmp_path), "--run", str(tmp_path))
        command = [hopline_command(), "serve", "--instance", "hl-needs", *place]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
        assert done.returncode == 1
        assert done.stderr.rstrip().endswith(found[0].text)
