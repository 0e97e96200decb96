import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from hopline.errors import HoplineError, KernelError
from hopline.kernel import netns, netns_thread
from hopline.kernel.netns_thread import NamespaceThread


def test_what_it_calls_is_called_in_a_namespace_of_its_own():
    thread = NamespaceThread("test")
    try:
        here, there = netns.inode(), thread.call(netns.inode)
        assert there != here
        assert thread.call(netns.inode) == there == os.fstat(thread.fd).st_ino
        assert netns.inode() == here
        assert [name for _, name in thread.call(socket.if_nameindex)] == ["lo"]
        assert thread.call(lambda a, b=0: (a, b, threading.current_thread().name), 1, b=2) == (1, 2, "test")
        with pytest.raises(ZeroDivisionError):
            thread.call(lambda: 1 / 0)
        # settings under /proc/sys/net are that namespace's
        path = Path("/proc/sys/net/ipv4/ip_local_port_range")
        before = path.read_text()
        thread.call(path.write_text, "61000 65535")
        assert thread.call(path.read_text).split() == ["61000", "65535"]
        assert path.read_text() == before
    finally:
        thread.close()
    thread.close()
    with pytest.raises(HoplineError, match="the namespace is gone"):
        thread.call(netns.inode)


def test_a_refusal_is_the_callers(monkeypatch):
    class Refusing:
        @staticmethod
        def unshare(kind):
            return -1

    monkeypatch.setattr(netns_thread, "_libc", Refusing)
    with pytest.raises(KernelError, match="make a network namespace") as caught:
        NamespaceThread("test")
    assert caught.value.errno == errno.EPERM
