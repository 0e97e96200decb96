"""The noun `interface`: a device whose received packets Hopline handles."""

from typing import Literal

import msgspec

from hopline.config.checks import FieldChecks, check_fields, refuse
from hopline.errors import InvalidInput, Problems
from hopline.spelling import device_name, shown

Mode = Literal["auto", "native", "generic"]

MODES: tuple[Mode, ...] = ("auto", "native", "generic")


class Interface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device whose received packets Hopline handles."""

    name: str
    mode: Mode = "auto"
    bypass_policy: bool = False


def mode_name(text: str, field: str = "mode") -> str:
    """Return `text` if it is one of MODES."""
    if text not in MODES:
        raise InvalidInput(field, f"{shown(text)} is not a mode", f"use one of {', '.join(MODES)}")
    return text


INTERFACE_FIELDS: FieldChecks = {"name": device_name, "mode": mode_name}


def checked_interface(interface: Interface, where: str = "") -> Interface:
    """Return the interface if its values are right; `where` is put before the field's name, as in `interface[3].`."""
    problems = Problems()
    check_fields(interface, INTERFACE_FIELDS, problems)
    if problems.count:
        refuse(problems, where)
    return interface
