"""The command line before a daemon's double."""

import subprocess
import sys

import pytest

from hopline.cli import main as cli


@pytest.fixture
def run(open_doors, capsys):
    """A function that runs a command: exit code, stdout, stderr."""
    open_doors.service.__init__()

    def run(*arguments, here=True):
        where = ["--run", str(open_doors.run)] if here else []
        code = cli.main([*where, *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    run.service = open_doors.service
    run.directory = open_doors.run
    return run


@pytest.fixture
def shell(run):
    """A function that runs a line of a shell in which $hopline is the command: the finished process."""

    def shell(line, **options):
        command = f"hopline='{sys.executable} -m hopline.cli.main --run {run.directory}'; {line}"
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, **options)

    shell.service = run.service
    return shell


@pytest.fixture
def terminal(run, tmp_path):
    """The same on a terminal, where `typed` is typed; what it shows, and the exit code."""

    def terminal(line, typed="", columns=200):
        script = tmp_path / "line.sh"
        command = f"hopline='{sys.executable} -m hopline.cli.main --run {run.directory}'"
        script.write_text(f"stty cols {columns}; {command}; {line}\n")
        done = subprocess.run(
            ["script", "-qec", f"bash {script}", "/dev/null"], input=typed, capture_output=True, text=True, timeout=60
        )
        return done.stdout.replace("\r\n", "\n"), done.returncode

    return terminal
