"""The noun `decap`: whose outer headers are taken off here. Pure."""

from collections.abc import Collection, Mapping

import msgspec

from hopline.config.checks import FieldChecks, Together, check_fields, one_of, refuse, whole
from hopline.config.service import GUE_PORT, Encap
from hopline.errors import InvalidInput, Problems
from hopline.spelling import canonical_host, canonical_source, shown

DECAPS_MOST = 16_384  # pairs of addresses
LOCALS_MOST = 256  # of each family
GUE_PORTS_MOST = 8

_KEY_HINT = "give LOCAL ipip from PREFIX, or any for the prefix"


class Decap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """What `from_`, an address, a prefix or `any`, encapsulates for the address `local` is taken out and handed on."""

    local: str
    from_: str
    encap: Encap = "ipip"
    gue_port: int = GUE_PORT

    @property
    def key(self) -> str:
        """What tells it from others: one address may accept several prefixes, and both encapsulations."""
        return f"{self.local} {self.encap} from {self.from_}"


def accepted_source(text: str, field: str = "from") -> str:
    """Return `any`, or an address or prefix in its one spelling; that of all addresses is `any`."""
    if text == "any":
        return text
    try:
        prefix = canonical_source(text, field, wide=True)
    except InvalidInput as error:
        raise InvalidInput(
            error.field, error.detail, "give an address, a prefix such as 10.10.3.0/24, or any"
        ) from None
    return "any" if prefix.endswith("/0") else prefix


DECAP_FIELDS: FieldChecks = {
    "local": canonical_host,
    "from_": lambda text, field: accepted_source(text, "from"),
    "encap": one_of("ipip", "gue"),
    "gue_port": whole(1, 65535),
}


def checked_decap(decap: Decap, where: str = "") -> Decap:
    """Return the entry in canonical spelling; InvalidInput or InvalidInputs name what is wrong, after `where`."""
    problems = Problems()
    check_fields(decap, DECAP_FIELDS, problems)
    if not problems.count:
        local, source = canonical_host(decap.local, "local"), accepted_source(decap.from_)
        if decap.from_ != "any" and (":" in decap.from_) != (":" in local):
            family = "IPv6" if ":" in local else "IPv4"
            problems.add(InvalidInput("from", f"{decap.from_} is not {family} as {local} is", f"give {family}, or any"))
        if decap.encap == "ipip" and decap.gue_port != GUE_PORT:
            why = "given with encap ipip, which has no port"
            problems.add(InvalidInput("gue_port", why, "give encap gue, or leave it out"))
    if problems.count:
        refuse(problems, where)
    if (local, source) == (decap.local, decap.from_):
        return decap
    return msgspec.structs.replace(decap, local=local, from_=source)


def canonical_decap_key(text: str, field: str = "decap") -> str:
    """Return the key of an entry, `LOCAL ENCAP from PREFIX`, in its one spelling."""
    words = text.split(" ")
    if len(words) != 4 or words[1] not in ("ipip", "gue") or words[2] != "from":
        raise InvalidInput(field, f"{shown(text)} names no entry of decap", _KEY_HINT)
    return checked_decap(Decap(words[0], words[3], words[1])).key  # type: ignore[arg-type]


def decaps_together(decaps: Mapping[str, Decap], new: Collection[str]) -> Together:
    """Yield what is wrong with the entries `new` beside all that there are: more than the kernel's tables hold."""
    if not new:
        return
    key = next(iter(new))
    locals_by_family = ({d.local for d in decaps.values() if (":" in d.local) is six} for six in (False, True))
    if len(decaps) > DECAPS_MOST:
        yield key, InvalidInput("from", f"{len(decaps):,} pairs of addresses", f"there is room for {DECAPS_MOST:,}")
    elif any(len(locals) > LOCALS_MOST for locals in locals_by_family):
        yield key, InvalidInput("local", "too many addresses of one family", f"there is room for {LOCALS_MOST}")
    elif len(ports := {decap.gue_port for decap in decaps.values() if decap.encap == "gue"}) > GUE_PORTS_MOST:
        yield key, InvalidInput("gue_port", f"{len(ports)} ports of GUE", f"there is room for {GUE_PORTS_MOST}")
