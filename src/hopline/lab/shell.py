"""Running commands in a lab's namespaces, with the tools a Debian machine has.

`nsenter --net=` is used throughout, never `ip netns exec`: the latter mounts a fresh /sys and so hides bpffs.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hopline.errors import HoplineError, Refused

NAMESPACES = Path("/run/netns")

# tool -> Debian package that has it
PACKAGES = {
    "bpftool": "bpftool",
    "clang": "clang",
    "curl": "curl",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "ncat": "ncat",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "sysctl": "procps",
    "tcpdump": "tcpdump",
    "timeout": "coreutils",
}

Result = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """This process's environment, with the administrator's directories on PATH and messages in English."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


def require(asked: str, tools: Sequence[str]) -> None:
    """Raise Refused, in one line, if this is not root or a tool is missing; the line names the packages."""
    if os.geteuid() != 0:
        raise Refused(f"{asked}: network namespaces need root: run it with sudo")
    missing = [tool for tool in tools if shutil.which(tool, path=environment()["PATH"]) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[tool] for tool in missing}))
        raise Refused(f"{asked}: {', '.join(missing)} not found: apt install {packages}")


def hopline_command() -> str:
    """The `hopline` of this very installation, so that a lab tests the code it came with."""
    beside = Path(sys.executable).with_name("hopline")
    if beside.exists():
        return str(beside)
    found = shutil.which("hopline", path=environment()["PATH"])
    if found is None:
        raise Refused("lab: the hopline command is not installed: pip install the package, or run it from its venv")
    return found


def enter(namespace: str | None, arguments: Sequence[str]) -> list[str]:
    """The argument list that runs `arguments` inside a namespace; None means where this process is."""
    if namespace is None:
        return list(arguments)
    return ["nsenter", f"--net={NAMESPACES / namespace}", "--", *arguments]


def run(arguments: Sequence[str], *, check: bool = True, timeout: float = 20.0, text: str | None = None) -> Result:
    """Run a command to its end and return it with its output; `timeout` is in seconds, `text` is its input.

    Raises HoplineError when it cannot be run, does not end in time, or (with `check`) exits other than 0.
    """
    asked = " ".join(arguments[3:] if arguments[0] == "nsenter" else arguments)
    try:
        result = subprocess.run(
            arguments, input=text or "", capture_output=True, text=True, timeout=timeout, env=environment(), check=False
        )
    except subprocess.TimeoutExpired:
        raise HoplineError(f"{asked}: no end after {timeout:g} s: run `hopline lab down` and try again") from None
    except OSError as error:
        raise HoplineError(f"{asked}: {(error.strerror or str(error)).lower()}") from error
    if check and result.returncode != 0:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise HoplineError(f"{asked}: {lines[-1] if lines else f'exit code {result.returncode}'}")
    return result


def ip_batch(namespace: str | None, lines: Sequence[str]) -> None:
    """Run `ip` commands (without the word `ip`) in order in one process; raises HoplineError naming the line."""
    if not lines:
        return
    where = ["-n", namespace] if namespace else []
    result = run(["ip", *where, "-batch", "-"], check=False, text="\n".join(lines) + "\n")
    if result.returncode != 0:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        # ip ends with "Command failed -:N", which tells the line
        number = next((int(line.rpartition(":")[2]) for line in said if line.startswith("Command failed")), 0)
        failed = lines[number - 1] if 0 < number <= len(lines) else "batch"
        reason = re.sub(r"^(RTNETLINK answers|Error): ", "", said[0]) if said else f"exit code {result.returncode}"
        raise HoplineError(f"ip {' '.join(where)} {failed}: {reason}")


def namespaces() -> set[str]:
    """Names of the network namespaces that exist now."""
    return set(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else set()
