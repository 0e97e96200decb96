"""The intent, as frozen types, and what makes a value in it right.

The same field names are the document's, the API's and `--json`'s. A type here holds what the operator wrote; the
`checked_*` functions return it in the one spelling (hopline.spelling) that the store and the plan use, or raise
InvalidInput with the field's name. Pure: nothing here looks at the host.
"""

from collections.abc import Mapping

import msgspec

from hopline.config.backend import BACKEND_FIELDS, Backend, checked_backend
from hopline.config.change import BackendChange, ServiceChange, checked_change, with_backends, without_backend
from hopline.config.checks import FieldChecks
from hopline.config.decap import DECAP_FIELDS, Decap, canonical_decap_key, checked_decap, decaps_together
from hopline.config.forward import FORWARD_FIELDS, Forward, NextHop, NextHops, Origin, checked_forward, checked_forwards
from hopline.config.interface import INTERFACE_FIELDS, MODES, Interface, Mode, checked_interface, mode_name
from hopline.config.service import SERVICE_FIELDS, Service, checked_service, services_together
from hopline.spelling import (
    canonical_address,
    canonical_destination,
    canonical_host,
    canonical_mac,
    device_name,
    doubtful_destinations,
    instance_name,
    service_name,
    shown,
)

__all__ = [
    "FIELD_CHECKS",
    "MODES",
    "Backend",
    "BackendChange",
    "Decap",
    "Forward",
    "Intent",
    "Interface",
    "Mode",
    "NextHop",
    "NextHops",
    "Origin",
    "Service",
    "ServiceChange",
    "canonical_address",
    "canonical_decap_key",
    "canonical_destination",
    "canonical_host",
    "canonical_mac",
    "checked_backend",
    "checked_change",
    "checked_decap",
    "checked_forward",
    "checked_forwards",
    "checked_interface",
    "checked_service",
    "decaps_together",
    "device_name",
    "doubtful_destinations",
    "instance_name",
    "mode_name",
    "service_name",
    "services_together",
    "shown",
    "with_backends",
    "without_backend",
]


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the operator asked for; names and destinations are unique."""

    interface: tuple[Interface, ...] = ()
    forward: tuple[Forward, ...] = ()
    service: tuple[Service, ...] = ()
    decap: tuple[Decap, ...] = ()


# what is asked of each field by itself, for those whose type does not say it all; by the names of the document
FIELD_CHECKS: Mapping[type, FieldChecks] = {
    Interface: INTERFACE_FIELDS,
    Forward: FORWARD_FIELDS,
    Service: SERVICE_FIELDS,
    Backend: BACKEND_FIELDS,
    Decap: {"from" if name == "from_" else name: check for name, check in DECAP_FIELDS.items()},
    ServiceChange: SERVICE_FIELDS,
    BackendChange: BACKEND_FIELDS,
}
