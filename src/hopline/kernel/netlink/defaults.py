"""The default route, with what a change of it has to say again."""

import socket
from dataclasses import dataclass

from hopline.kernel.netlink import parse, query
from hopline.kernel.netlink.wire import attributes, number

_TABLE_MAIN = 254
_UNICAST = 1  # RTN_UNICAST
_PRIORITY, _SOURCE, _METRICS, _MULTIPATH = 6, 7, 8, 9  # RTA_
_MTU, _ADVMSS = 2, 8  # RTAX_


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route of the main table; 0 and None where it does not say. `several`: it has more next hops."""

    family: int
    index: int
    gateway: str | None
    source: str | None
    protocol: int
    metric: int
    mtu: int
    advmss: int
    several: bool


def default_route(family: int) -> DefaultRoute | None:
    """The main table's default route of family 4 or 6, that of the least metric; None where there is none."""
    number_of = socket.AF_INET6 if family == 6 else socket.AF_INET
    found: list[DefaultRoute] = []
    for body in query.table_routes(number_of, _TABLE_MAIN):
        _family, length, _from, _tos, table, protocol, _scope, kind, _flags = parse.ROUTE.unpack_from(body)
        said = attributes(body, 12)
        if length or number(said.get(15), default=table) != _TABLE_MAIN or kind != _UNICAST:
            continue
        metrics = attributes(said.get(_METRICS, b""))
        found.append(
            DefaultRoute(
                family=family,
                index=number(said.get(4)),
                gateway=query.gateway_of(number_of, said),
                source=socket.inet_ntop(number_of, said[_SOURCE]) if _SOURCE in said else None,
                protocol=protocol,
                metric=number(said.get(_PRIORITY)),
                mtu=number(metrics.get(_MTU)),
                advmss=number(metrics.get(_ADVMSS)),
                several=_MULTIPATH in said,
            )
        )
    return min(found, key=lambda route: route.metric, default=None)
