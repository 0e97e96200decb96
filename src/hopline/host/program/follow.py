"""Records and pins follow what they are about: devices that were renamed, and namespaces that have gone."""

import socket

import msgspec

from hopline.host.program import pins, record
from hopline.host.program.record import XDP_HOOK, Record
from hopline.host.program.signals import uninterrupted
from hopline.kernel.link import query


def follow() -> None:
    """Give what is on record the names that its devices have now; drop what a dead namespace left.

    What keepers of routes that were killed left undone is done. Under record.locked().
    """
    if any(found.hook != XDP_HOOK for found in record.records()):
        from hopline.host.program import routes

        routes.finish()
    with uninterrupted():
        for gone in record.dead():
            if gone.hook == XDP_HOOK:  # a route has no pins
                pins.remove_all(gone.place)
            record.forget(gone.place)
        moved = [(found, name) for found in record.records() if (name := _renamed(found))]
        # two devices may have taken each other's name
        for found, _ in moved:
            pins.move(found.place, pins.waiting(found.ifindex))
            record.forget(found.place)
        for found, name in moved:
            paths = pins.move(pins.waiting(found.ifindex), name)
            record.write(msgspec.structs.replace(found, place=name, pins=paths))


def _renamed(found: Record) -> str:
    """The name that the device of a record has now, if it is another one and runs the program still; else ""."""
    if found.hook != XDP_HOOK:
        return ""
    try:
        name = socket.if_indextoname(found.ifindex)
    except OSError:
        return ""
    there = query(found.ifindex) if name != found.place else None
    runs = there is not None and there.program_id == found.program_id and record.is_loaded(found)
    return name if runs else ""
