"""`hopline serve`: start, serve until told to stop, leave the datapath running."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys

from hopline.daemon.front import Front
from hopline.daemon.options import ServeOptions
from hopline.daemon.service import Service
from hopline.daemon.tracer import print_decisions
from hopline.errors import HoplineError, Refused
from hopline.kernel import bpffs, capability
from hopline.kernel.needs import lacks

log = logging.getLogger("hopline")


def check_rights() -> None:
    """Refuse to start without the capabilities that loading and attaching need."""
    held = capability.rights()
    programs = held.has(capability.SYS_ADMIN) or held.has(capability.BPF, capability.PERFMON)
    if not held.has(capability.NET_ADMIN) or not programs:
        raise Refused("serve: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed: run it as root")


def check_kernel() -> None:
    """Refuse to start where the pipeline cannot run, before anything is made."""
    reason = lacks()
    if reason:
        raise Refused(f"serve: Linux {os.uname().release} cannot run the pipeline: {reason}")


def give_up_rights(service: Service) -> None:
    """Keep what serving needs (docs/rights.md); what could not be given up is told by the log and by `status`."""
    kept = capability.give_up()
    log.info("rights left: %s", ", ".join(kept.names))
    places = (service.options.state, service.options.run)
    shut = [place for place in places if not os.access(place, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)]
    remarks = [f"{place} cannot be written any more: chown it to root, and restart" for place in shut]
    for remark in (*kept.remarks, *remarks):
        log.warning("%s", remark)
        service.notes.append(remark)


def raise_file_limit() -> None:
    """Allow as many files as may be: every interface's program keeps those of the maps it uses."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(options: ServeOptions) -> None:
    """Run one instance until SIGTERM, SIGINT or a detach."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(options)
    front: Front | None = None
    try:
        await service.start()
        front = await Front.open(service, options)
        loop.add_signal_handler(signal.SIGHUP, front.reload_tokens)
        give_up_rights(service)
        # what there is now stays: a full collection would else go through it in the event loop, for 30 to 50 ms
        gc.collect()
        gc.freeze()
        log.info("instance %s serves on %s", options.instance, options.run / "admin.sock")
        waits = [asyncio.create_task(work) for work in (stop.wait(), service.detached.wait(), service.failed())]
        if options.trace:
            waits.append(asyncio.create_task(print_decisions(service.attachments, sys.stdout)))
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()
    finally:
        if front is not None:
            await front.close()
        await service.stop()
    left = "detached" if service.detached.is_set() else "forwarding goes on"
    log.info("instance %s stopped: %s", options.instance, left)


def run(options: ServeOptions) -> int:
    """Serve; return the exit code of the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    # the umask of whoever starts it must not open the store or the sockets
    os.umask(0o077)
    try:
        check_rights()
        check_kernel()
        raise_file_limit()
        bpffs.root()
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(options))
    except HoplineError as error:
        print(f"hopline: {error}", file=sys.stderr)
        return 1
    return 0
