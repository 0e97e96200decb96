"""VIPs as the program finds them: buckets, rows, rules and port pages, each change of them word by word.

What a VIP's ports lead to follows from the services linked to it, the later covering the earlier, so that a service may
take another's place in one step and give it back.
"""

from dataclasses import dataclass, field

from hopline.daemon.balance.blocks import Blocks
from hopline.daemon.balance.maps import BalanceMaps
from hopline.errors import Refused
from hopline.features.balance import Ports, family_of, paged, painted, ruled, text_of

PORT_LEAF = 0x8000  # of a page's entry: another page (layout_balance.h)
REST_S = 1.0  # far more than a program runs for

_Drawn = tuple[dict[int, int], dict[int, dict[int, int]]]  # a root page's entries, and by high octet those of others


@dataclass
class _Pages:
    """The pages of a VIP's protocol: its root, 0 for none, and below it those of ports' high octets."""

    root: int = 0
    leaves: dict[int, int] = field(default_factory=dict)


@dataclass
class Vip:
    """One VIP in use."""

    address: str
    mixed: int  # keyed hash: the tag, the bucket and the bit in the filter
    row: int
    place: tuple[int, int]  # bucket and way
    links: dict[int, Ports] = field(default_factory=dict)  # service row → what is its, in the order of linking
    echo: dict[int, bool] = field(default_factory=dict)  # service row → whether it wants echoes answered
    pages: list[_Pages] = field(default_factory=lambda: [_Pages(), _Pages()])


class VipIndex:
    """All VIPs of one datapath; `local` are the host's own addresses, kept by who follows them."""

    def __init__(self, maps: BalanceMaps) -> None:
        self.maps = maps
        self.vips: dict[str, Vip] = {}
        self.local: frozenset[str] = frozenset()
        self.owned: set[str] = set()  # VIPs whose address the daemon has added to a device
        self.now = 0.0  # of the monotonic clock, as of the last call of free_rested
        self._rows = Blocks(1, int(maps.limits.VIPS))
        self._free_pages = Blocks(1, int(maps.limits.PORT_PAGES))

    # changes

    def link(self, service: int, address: str, ports: Ports, echo: bool) -> None:
        """Lead what of a VIP is a service's to it, in front of whatever was there; Refused where there is no room."""
        vip = self.vips.get(address)
        if vip is None:
            vip = self._begin(address)
        links, echoes = dict(vip.links), dict(vip.echo)
        vip.links.pop(service, None)
        vip.links[service] = ports
        vip.echo[service] = echo
        try:
            self._write(vip)
        except Refused:
            # nothing was written: nor is anything to be later, when the row may be another service's
            vip.links, vip.echo = links, echoes
            if not links:
                self._end(vip)
            raise

    def unlink(self, service: int, address: str) -> None:
        """Lead nothing of a VIP to a service any more; where it is another's too, that has it back."""
        vip = self.vips.get(address)
        if vip is None or vip.links.pop(service, None) is None:
            return
        vip.echo.pop(service, None)
        if not vip.links:
            self._end(vip)
        else:
            self._write(vip)

    def _begin(self, address: str) -> Vip:
        mixed = self.maps.mixed(address)
        place = self._free_place(address, mixed)
        row = self._rows.take(1)
        if row is None:
            raise Refused(f"vip {address}: all {self.maps.limits.VIPS - 1:,} vips are in use")
        vip = self.vips[address] = Vip(address, mixed, row, place)
        self.maps.write_vip(row, address, family_of(address), self._flags(vip))
        self.maps.set_bloom(
            each.mixed for each in self.vips.values()
        )  # first: the program looks only where its bit is set
        self.maps.set_way(*place, mixed << 32 | row)
        return vip

    def _free_place(self, address: str, mixed: int) -> tuple[int, int]:
        home = mixed & (int(self.maps.limits.VIP_BUCKETS) - 1)
        for bucket in (home, home ^ 1):
            for way, word in enumerate(self.maps.buckets[bucket].tolist()):
                if not word:
                    return bucket, way
        raise Refused(f"vip {address}: the table has no room where its hash leads: use another address")

    def _end(self, vip: Vip) -> None:
        self.maps.set_way(*vip.place, 0)
        for protocol in range(len(vip.pages)):
            self._write_pages(vip, protocol, None)
        del self.vips[vip.address]
        self.maps.set_bloom(each.mixed for each in self.vips.values())
        self._rows.give_back(vip.row, 1, self._until())

    def _until(self) -> float:
        return self.now + REST_S

    def free_rested(self, now: float) -> None:
        """Make rows and pages free again that programs have forgotten; called every so often, and before changes."""
        self.now = now
        for row, _ in self._rows.free_rested(now):
            self.maps.vips["family"][row] = 0
        self._free_pages.free_rested(now)

    # what programs read

    def _write(self, vip: Vip) -> None:
        """Write a VIP's rules and pages; Refused, and nothing written, where there are not pages enough."""
        drawn: list[tuple[list[int], list[int], _Drawn | None]] = []
        lacking = 0
        for protocol, pages in enumerate(vip.pages):
            layers = [(p.first, p.last, row) for row, p in vip.links.items() if protocol in p.protocols]
            now = self.maps.vips["rules"][vip.row, protocol].tolist()
            rules, rest = ruled(now, painted(layers))
            paging = paged(rest) if rest else None
            if paging is not None:
                lacking += int(not pages.root) + len(paging[1].keys() - pages.leaves.keys())
            drawn.append((now, rules, paging))
        if lacking > self._free_pages.free:
            raise Refused(f"vip {vip.address}: all port pages are in use: give services ranges of ports, or fewer")
        self.refresh_flags(vip)
        for protocol, (now, rules, paging) in enumerate(drawn):
            # rules first, then pages: what goes from a page to a rule is in one of them all the time
            for place, word in enumerate(rules):
                if word != now[place]:
                    self.maps.set_rule(vip.row, protocol, place, word)
            self._write_pages(vip, protocol, paging)

    def _write_pages(self, vip: Vip, protocol: int, paging: _Drawn | None) -> None:
        pages = vip.pages[protocol]
        if paging is None:
            if int(self.maps.vips["pages"][vip.row, protocol]):
                self.maps.set_page(vip.row, protocol, 0)
            if pages.root:
                self._give_up([pages.root, *pages.leaves.values()])
                vip.pages[protocol] = _Pages()
            return
        whole, below = paging
        for high, entries in below.items():
            if high not in pages.leaves:
                pages.leaves[high] = self._blank_page()
            self._fill(pages.leaves[high], entries)
        root = pages.root or self._blank_page()
        self._fill(root, whole | {high: PORT_LEAF | pages.leaves[high] for high in below})
        pages.root = root
        if int(self.maps.vips["pages"][vip.row, protocol]) != root:
            self.maps.set_page(vip.row, protocol, root)
        self._give_up([pages.leaves.pop(high) for high in list(pages.leaves) if high not in below])

    def _blank_page(self) -> int:
        page = self._free_pages.take(1)
        assert page is not None, "counted before"
        self.maps.pages[page] = 0
        return page

    def _fill(self, page: int, entries: dict[int, int]) -> None:
        # each entry is a store of 16 aligned bits
        for i, old in enumerate(self.maps.pages[page].tolist()):
            if old != (new := entries.get(i, 0)):
                self.maps.pages[page, i] = new

    def _give_up(self, pages: list[int]) -> None:
        for page in pages:
            self._free_pages.give_back(page, 1, self._until())

    # flags

    def _flags(self, vip: Vip) -> int:
        flags = self.maps.vip_flags
        value = flags.VIP_LOCAL if vip.address in self.local else 0
        value |= flags.VIP_ANSWERS_ECHO if any(vip.echo.values()) else 0
        value |= flags.VIP_OWNED if vip.address in self.owned else 0
        return int(value)

    def refresh_flags(self, vip: Vip) -> bool:
        """Make a VIP's flags what they should be; return whether they were not."""
        flags = self._flags(vip)
        if int(self.maps.vips["flags"][vip.row]) == flags:
            return False
        self.maps.set_vip_flags(vip.row, flags)
        return True

    def know_local(self, addresses: frozenset[str]) -> None:
        """The host's own addresses are these from now on."""
        self.local = addresses
        for vip in self.vips.values():
            self.refresh_flags(vip)

    def repair(self, address: str) -> bool:
        """Make all that leads to a VIP's services what it should be; return whether it was not."""
        vip = self.vips.get(address)
        if vip is None:
            return False
        row, word = self.maps.vips[vip.row], vip.mixed << 32 | vip.row
        way = int(self.maps.buckets[vip.place])
        amiss = way != word or text_of(int(row["family"]) or 4, row["address"].tobytes()) != address
        amiss |= int(row["family"]) != family_of(address)
        if amiss:
            self.maps.write_vip(vip.row, address, family_of(address), self._flags(vip))
            self.maps.set_way(*vip.place, word)
        before = row.tobytes(), self._page_octets(vip)
        self._write(vip)
        self.maps.set_bloom(each.mixed for each in self.vips.values())
        return amiss or before != (self.maps.vips[vip.row].tobytes(), self._page_octets(vip))

    def _page_octets(self, vip: Vip) -> bytes:
        pages = [page for held in vip.pages for page in (held.root, *held.leaves.values()) if page]
        return bytes(self.maps.pages[pages].tobytes())

    # adoption

    def adopt(self) -> list[str]:
        """Take over what the maps hold, without the links, which services say; return VIPs that have no service.

        A row that no bucket leads to is free, as is a page that no row leads to.
        """
        rows: list[tuple[int, int]] = []
        pages: list[int] = []
        for bucket, ways in enumerate(self.maps.buckets.tolist()):
            for way, word in enumerate(ways):
                row = word & 0xFFFFFFFF
                if not word or not 0 < row < int(self.maps.limits.VIPS):
                    continue
                entry = self.maps.vips[row]
                address = text_of(int(entry["family"]) or 4, entry["address"].tobytes())
                vip = Vip(address, self.maps.mixed(address), row, (bucket, way))
                vip.pages = [self._adopted_pages(int(root)) for root in entry["pages"]]
                pages += [page for held in vip.pages for page in (held.root, *held.leaves.values()) if page]
                rows.append((row, 1))
                self.vips[address] = vip
                if int(entry["flags"]) & int(self.maps.vip_flags.VIP_OWNED):
                    self.owned.add(address)
        self._rows.claim(rows)
        self._free_pages.claim((page, 1) for page in set(pages))
        return list(self.vips)

    def _adopted_pages(self, root: int) -> _Pages:
        if not root:
            return _Pages()
        entries: list[int] = self.maps.pages[root].tolist()
        return _Pages(root, {high: entry & ~PORT_LEAF for high, entry in enumerate(entries) if entry & PORT_LEAF})

    def adopt_link(self, service: int, address: str, ports: Ports, echo: bool) -> None:
        """A service says that it is linked to a VIP that was adopted."""
        if (vip := self.vips.get(address)) is not None:
            vip.links[service] = ports
            vip.echo[service] = echo

    def drop_strays(self) -> None:
        """Forget VIPs that no service is linked to, as a change that was cut short left them; write the others."""
        for vip in list(self.vips.values()):
            if vip.links:
                self._write(vip)
            else:
                self._end(vip)
        self.maps.set_bloom(each.mixed for each in self.vips.values())
