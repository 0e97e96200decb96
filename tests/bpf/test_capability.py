"""Rights given up by a process with threads of every kind, asked of the kernel and of what the process can still do.

Each test runs in a process of its own, since what is given up does not come back.
"""

import json
import subprocess
import sys
import textwrap

import pytest

NEEDED = ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]
KEPT = 1 << 12 | 1 << 38 | 1 << 39

HEAD = """
import json, os, signal, socket, subprocess, sys, threading, time
from hopline.errors import HoplineError
from hopline.kernel import Map, Program, capability, netns

def everyone():
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            found.append(capability.rights(int(task)))
        except HoplineError:
            pass  # it has ended
    return found

def told(**values):
    print(json.dumps(values))
"""


def in_a_process(script: str, *before: str) -> dict:
    """What the script tells; `before` is the command that starts it, as setpriv with its options."""
    command = [*before, sys.executable, "-c", HEAD + textwrap.dedent(script)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def setpriv(*kept: str) -> list[str]:
    """Start as root with these capabilities alone."""
    return ["setpriv", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in kept)])]


def test_every_thread_gives_up_whatever_it_is_doing():
    told = in_a_process("""
        here, there = socket.socketpair()
        lock, over = threading.Lock(), threading.Event()
        lock.acquire()
        def poll():
            while not over.is_set():
                time.sleep(0.01)
        def busy():
            while not over.is_set():
                sum(range(1000))
        def breed():
            while not over.is_set():
                threading.Thread(target=time.sleep, args=(0.003,)).start()
                time.sleep(0.0005)
        waiting = [lambda: there.recv(1), lock.acquire, over.wait, poll, busy, breed, lambda: time.sleep(0.8)]
        threads = [threading.Thread(target=work) for work in waiting]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        before = len(everyone())
        kept = capability.give_up()
        took = time.monotonic() - began - 0.1
        time.sleep(0.2)
        after = everyone()
        here.send(b"x"); lock.release(); over.set()
        for thread in threads:
            thread.join()
        slept = time.monotonic() - began
        told(before=before, names=kept.names, remarks=kept.remarks, took=took, slept=slept, count=len(after),
             rights=sorted({(r.effective, r.permitted, r.inheritable, r.bounding, r.ambient, r.no_new_privileges)
                            for r in after}))
    """)
    assert told["before"] > 7  # NumPy's own among them
    assert told["names"] == NEEDED
    assert told["remarks"] == []
    assert told["rights"] == [[KEPT, KEPT, 0, 0, 0, True]]
    assert told["took"] < 1.0
    assert told["slept"] >= 0.8, "a thread that slept was woken early"


def test_a_thread_that_takes_no_signal_is_named():
    told = in_a_process("""
        capability.PATIENCE_S = 0.2
        over = threading.Event()
        def deaf():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
            over.wait()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGRTMIN})
            time.sleep(0.01)
            late.append(capability.rights().effective)
        late = []
        thread = threading.Thread(target=deaf)
        thread.start()
        time.sleep(0.05)
        kept = capability.give_up()
        over.set()
        thread.join()
        told(id=thread.native_id, remarks=kept.remarks, late=late)
    """)
    [remark] = told["remarks"]
    assert remark.startswith(f"threads keep rights that they should not have: {told['id']} (")
    assert remark.endswith(": restart, and report it")
    assert told["late"] == [KEPT]


def test_what_is_given_up_is_gone_for_programs_too(tmp_path):
    told = in_a_process(f"""
        with Map.create(2, "before", 4, 4, 1) as there:
            kept = capability.give_up()
            refused = {{}}
            for name, work in {{
                "open map by id": lambda: Map.from_id(there.id),
                "open program by id": lambda: Program.from_id(1),
                "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
                "make a file another's": lambda: os.chown({str(tmp_path)!r}, 1, 1),
                "enter a namespace": lambda: netns.run_in(os.getpid(), int),
            }}.items():
                try:
                    work()
                except (HoplineError, OSError) as error:
                    refused[name] = error.errno
            there.set(0, 7)
            Map.create(2, "after", 4, 4, 1).close()
        child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
        again = capability.give_up()
        told(refused=refused, again=[again.names, again.remarks],
             child=[line.split()[1] for line in child.splitlines() if line.startswith("Cap")])
    """)
    assert told["refused"] == {
        "open map by id": 1,
        "open program by id": 1,
        "open a raw socket": 1,
        "make a file another's": 1,
        "enter a namespace": 1,
    }
    assert told["child"] == ["0" * 16] * 5
    assert told["again"] == [NEEDED, []]


def test_the_pipeline_is_loaded_after_as_it_is_before():
    told = in_a_process("""
        from hopline.daemon.datapath import OBJECT, PIPELINE
        from hopline.kernel import BpfObject
        def load():
            with BpfObject.open(OBJECT) as opened:
                opened.only(PIPELINE)
                opened.load()
                info = opened.program(PIPELINE).info()
            return info.tag, info.xlated_bytes, info.jited_bytes, info.verified_instructions
        before = load()
        capability.give_up()
        told(before=before, after=load())
    """)
    assert told["after"] == told["before"]


@pytest.mark.parametrize(
    ("given", "kept", "said"),
    [
        (["net_admin", "bpf", "perfmon"], NEEDED, "the bounding set stays: CAP_SETPCAP"),
        (["net_admin", "bpf", "perfmon", "setpcap", "chown"], NEEDED, ""),
        (
            ["net_admin", "sys_admin", "setpcap"],
            ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"],
            "CAP_SYS_ADMIN is kept: CAP_BPF and CAP_PERFMON were not given",
        ),
    ],
)
def test_what_was_not_given_is_not_kept_and_what_cannot_be_given_up_is_told(given, kept, said):
    script = """
        kept = capability.give_up()
        told(names=kept.names, remarks=kept.remarks, all=sorted({r.permitted for r in everyone()}),
             bounding=sorted({r.bounding for r in everyone()}))
    """
    told = in_a_process(script, *setpriv(*given))
    numbers = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
    assert told["names"] == kept
    assert told["all"] == [sum(1 << numbers[name] for name in kept)]
    assert [remark[: len(said)] for remark in told["remarks"]] == ([said] if said else [])
    assert (told["bounding"] == [0]) == ("setpcap" in given)
