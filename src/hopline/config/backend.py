"""A backend of a service: its address, its weight, and the way to it where the host's routes are not to say that."""

from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_pton

import msgspec

from hopline.config.checks import FieldChecks, check_fields, refuse, whole
from hopline.errors import InvalidInput, Problems
from hopline.spelling import canonical_address, canonical_host, canonical_mac, canonical_via, device_name, network_of

WEIGHT_MOST = 65535


class Backend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A server that takes its share of a service's flows; the way to it may be told: `via`, or `dst_mac` and `dev`."""

    address: str
    weight: int = 1
    via: str | None = None
    dst_mac: str | None = None
    dev: str | None = None
    drained: bool = False  # takes no new flow, whatever its weight, which it gets back afterwards

    @property
    def share(self) -> int:
        """The weight that it has in the ring now."""
        return 0 if self.drained else self.weight


BACKEND_FIELDS: FieldChecks = {
    "address": canonical_host,
    "weight": whole(0, WEIGHT_MOST),
    "via": canonical_address,
    "dst_mac": canonical_mac,
    "dev": device_name,
}


def checked_backend(backend: Backend, where: str = "") -> Backend:
    """Return a backend in canonical spelling; InvalidInput or InvalidInputs name what is wrong with it by itself."""
    try:
        return _right_backend(backend)
    except InvalidInput as error:
        first = error
    # slower, and only now: everything that is wrong, not the first alone
    problems = Problems()
    check_fields(backend, BACKEND_FIELDS, problems)
    if not problems.count:
        problems.add(first)
    return refuse(problems, where)


def _right_backend(backend: Backend) -> Backend:
    address = canonical_host(backend.address)
    BACKEND_FIELDS["weight"](backend.weight, "weight")
    via, dst_mac, dev = backend.via, backend.dst_mac, backend.dev
    if via is None and dst_mac is None and dev is None:
        return backend if address == backend.address else msgspec.structs.replace(backend, address=address)
    if dev is not None:
        device_name(dev)
    if via is not None:
        if dst_mac is not None:
            raise InvalidInput("dst_mac", f"given together with via for {address}", "give via, or dst_mac and dev")
        via = canonical_via(via, address, dev)
    elif dst_mac is None:
        raise InvalidInput(
            "dev", f"given alone for {address}", "give via or dst_mac too, or leave the way to the routes"
        )
    else:
        dst_mac = canonical_mac(dst_mac)
        if dev is None:
            raise InvalidInput("dev", f"missing for {address}", "dst_mac needs the device that it is reached by")
    return msgspec.structs.replace(backend, address=address, via=via, dst_mac=dst_mac)


def fitting(vip: str | None, local: str | None) -> Callable[[Backend], None]:
    """Return what refuses a checked backend that cannot be one of a service; None is what is not known."""
    # one integer compare a backend: there may be a hundred thousand
    network = None if local is None else network_of(local)
    mask = 0 if network is None else int(network.netmask)
    base = 0 if network is None else int(network.network_address)
    outer_is_ipv6 = network is not None and network.version == 6

    def check(backend: Backend) -> None:
        address = backend.address
        is_ipv6 = ":" in address
        if vip is not None:
            if address == vip:
                raise InvalidInput("address", f"{address} is the VIP itself", "give the server's own address")
            if not is_ipv6 and ":" in vip:
                why = f"{address} is IPv4 and the VIP is IPv6, and an outer header of IPv4 around IPv6 is not offered"
                raise InvalidInput("address", why, "give an IPv6 address of the server")
        if network is None:
            return
        if is_ipv6 != outer_is_ipv6:
            family, other = ("IPv6", "IPv4") if is_ipv6 else ("IPv4", "IPv6")
            hint = f"give backends of {other}, or a service without local, which takes the device's address"
            raise InvalidInput("address", f"{address} is {family} and local, {local}, is {other}", hint)
        if int.from_bytes(inet_pton(AF_INET6 if is_ipv6 else AF_INET, address), "big") & mask == base:
            why = f"{address} is one of the outer sources that local, {local}, gives: it would drop its own address"
            raise InvalidInput("address", why, "give a local that holds no backend")

    return check
