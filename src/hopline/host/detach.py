"""`hopline detach` where no daemon runs: remove an instance from the kernel, keep its intent."""

import fcntl
import os

from hopline.errors import NotFound, Refused
from hopline.kernel import bpffs
from hopline.kernel.link import remove_pins


def detach(instance: str) -> None:
    """Detach an instance's links and remove its pins. NotFound if there are none, Refused while a daemon has them."""
    directory = bpffs.instance_dir(instance, create=False)
    if not directory.exists():
        raise NotFound(f"detach instance {instance}: nothing of it is in the kernel")
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = f"detach instance {instance}: a daemon serves it and does not answer: stop it first"
            raise Refused(text) from None
        remove_pins(directory)
    finally:
        os.close(lock)
