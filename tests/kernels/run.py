"""`make test-kernels`: the BPF and lab tests on Debian's kernels, each in a VM over this machine's own file system.

The VMs are emulated, twenty times slower than the machine. So they are given a clock that counts the instructions
they execute (QEMU's -icount): a second is then as much work as on a machine of its own, and bounds, time-outs and
leases mean what they mean elsewhere, however slow or busy this machine is. Such a VM has one CPU at work, and a second
that is possible, so that per-CPU maps have two values.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from images import KERNELS, Kernel, ensure

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("tests/bpf", "tests/lab")
# what one emulated CPU cannot show, or what is no matter of the kernel's
LEFT_OUT = {
    "tests/bpf/test_attack.py": "CPUs that write at the same time: the VM has one",
    "tests/bpf/test_cost.py": "instruction counts are of one kernel's translation: those of the machine's own",
    "tests/lab/test_api_contract.py": "ten thousand requests to the API, which is the same on every kernel",
}
TEST_SECONDS = 600  # of the VM's own clock
# mitigations cost an emulated CPU half its time, and it has nothing to hide
BOOT = "mitigations=off nokaslr nowatchdog"
# one executed instruction is 1 ns; QEMU 7.2 gets some of AVX wrong: numpy.argsort answers nonsense
MACHINE = "-icount shift=0,sleep=on -cpu max,avx=off,avx2=off,fma=off,f16c=off"
PROMISE = re.compile(r"Linux (\d+\.\d+) or later")
COMPLAINT = re.compile(r"\b(?:BUG|Oops|WARNING|KASAN|soft lockup|hung task|general protection)\b.*")


@dataclass
class Result:
    """What became of the tests on one kernel: `outcomes` by test, (passed | failed | skipped, reason)."""

    kernel: Kernel
    version: str
    code: int
    minutes: float
    lacks: str = ""
    collected: int = 0
    running: str = ""
    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def of(self, outcome: str) -> dict[str, str]:
        """Tests with this outcome, and why."""
        return {test: reason for test, (found, reason) in self.outcomes.items() if found == outcome}

    @property
    def sound(self) -> bool:
        """Every test ran to its end, none failed, and the kernel complained of nothing."""
        ended = self.code == 0 and not self.running
        return ended and bool(self.of("passed")) and not self.of("failed") and not self.complaints

    @property
    def passes(self) -> bool:
        """Sound, and the pipeline runs."""
        return self.sound and not self.lacks

    def lines(self) -> list[str]:
        """A row, and under it what failed and what was skipped, with reasons."""
        counts = ", ".join(f"{len(self.of(outcome))} {outcome}" for outcome in ("passed", "failed", "skipped"))
        word = ("refused, as it should be" if self.lacks else "green") if self.sound else "RED"
        row = f"{self.version}: {word}: {counts} of {self.collected}, {self.minutes:.0f} minutes"
        more = [f"it cannot run the pipeline: {self.lacks}"] if self.lacks else []
        more += [f"failed: {test}: {reason}" for test, reason in self.of("failed").items()]
        reasons = Counter(self.of("skipped").values())
        more += [f"skipped: {count}: {reason}" for reason, count in sorted(reasons.items())]
        more += [f"the kernel said: {line}" for line in self.complaints]
        if self.running or self.code not in (0, 1):
            more.append(f"ended with code {self.code} in {self.running or 'no test'}")
        return [row, *(f"    {line}" for line in more)]


def boot(version: str, results: Path, arguments: list[str], seconds: float) -> int:
    """Run guest.sh in a VM of this kernel; its exit code. It writes into `results`."""
    # by way of a file: what runs in the VM is part of the kernel's command line, which is cut
    (results / "arguments").write_text("".join(f"{argument}\n" for argument in arguments))
    inside = shlex.join(["sh", str(ROOT / "tests/kernels/guest.sh"), str(ROOT)])
    command = [
        *("timeout", f"{seconds:.0f}", "nice", "-n", "10", "vng", "--run", version, "--disable-kvm", "--user", "root"),
        *("--cpus", "1,maxcpus=2", "--memory", "4G", "--append", BOOT, f"--qemu-opts={MACHINE}"),
        *("--rodir", "/mnt=/", "--rwdir", f"/media={results}", "--", inside),
    ]
    # vng finds its own parts by PATH
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    # by way of a pipe: QEMU opens its standard output anew, and would write over what a file has
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace") as vm:  # fmt: skip
        try:
            for line in vm.stdout:
                print(line, end="", flush=True)
        finally:
            vm.terminate()
    return vm.returncode


def read(results: Path, found: Result) -> Result:
    """Add what the VM wrote."""
    for line in lines_of(results / "outcomes"):
        note = json.loads(line)
        match note["what"]:
            case "collected":
                found.collected = note["count"]
            case "begun":
                found.running = note["test"]
            case "ended":
                found.running = ""
            case outcome:
                # a test that passed may yet fail when it is cleaned up
                found.outcomes[note["test"]] = (outcome, note["reason"])
    found.lacks = "".join(lines_of(results / "lacks"))
    found.complaints = [hit[0] for line in lines_of(results / "dmesg") if (hit := COMPLAINT.search(line))]
    return found


def lines_of(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def test(kernel: Kernel, select: list[str], seconds: float) -> Result:
    """Boot one kernel and run the tests in it."""
    version = ensure(kernel)
    print(f"{version}: boots", flush=True)
    arguments = ["--timeout", str(TEST_SECONDS), *(f"--ignore={path}" for path in LEFT_OUT), *(select or TESTS)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hl-kernel-") as directory:
        code = boot(version, Path(directory), arguments, seconds)
        return read(Path(directory), Result(kernel, version, code, (time.monotonic() - began) / 60))


def verdict(results: list[Result]) -> int:
    """Print the oldest kernel that passes beside the one that README promises; the exit code."""
    passed = [result.kernel.series for result in results if result.passes]
    oldest = min(passed, key=lambda series: [int(part) for part in series.split(".")], default="none")
    promise = PROMISE.search((ROOT / "README.md").read_text())
    promised = promise[1] if promise else "nothing"
    print(f"the oldest kernel that passes: {oldest}; README promises {promised}")
    return 0 if all(result.sound for result in results) and oldest == promised else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="the BPF and lab tests on Debian's kernels, in VMs")
    series = [kernel.series for kernel in KERNELS]
    parser.add_argument("--kernel", action="append", choices=series, help="only this one (may be given again)")
    parser.add_argument("--hours", type=float, default=12, help="the most that one kernel may take")
    parser.add_argument("select", nargs="*", help="tests in place of tests/bpf and tests/lab")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else the VM would go on by itself
    chosen = [kernel for kernel in KERNELS if not asked.kernel or kernel.series in asked.kernel]
    results = [test(kernel, asked.select, asked.hours * 3600) for kernel in chosen]
    print("\nleft out:", *(f"    {path}: {reason}" for path, reason in LEFT_OUT.items()), "", sep="\n")
    for result in results:
        print(*result.lines(), sep="\n")
    if asked.kernel or asked.select:
        return 0 if all(result.sound for result in results) else 1
    return verdict(results)


if __name__ == "__main__":
    sys.exit(main())
