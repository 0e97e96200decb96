"""Deliberate faults of the datapath, each in one place, and the tests that must notice it.

A fault's text is there exactly once, or the run says which fault has to follow a change of the sources. A race comes
with the window that is held open for it (windows.py).
"""

from dataclasses import dataclass

from faults import windows
from faults.builder import Change

PACKETS = "tests/bpf/test_forward.py"
PARSE = "tests/bpf/test_parse.py"
CACHE = "tests/bpf/test_cache.py"
ADJACENCY = "tests/bpf/test_adjacency.py"
VERDICT = "tests/bpf/test_verdict.py"
ATTACK = "tests/bpf/test_attack.py"
PUSH = "tests/bpf/test_push.py"
DECAP = "tests/bpf/test_decap.py"
# test_answer.py and test_quoted.py build a small program of their own, so it is the whole that is asked
DRAWN, AGREE = "tests/model/test_agreement_balance.py", "they_agree and not million"
FLOW = "tests/bpf/test_flow.py"
ROOM = "tests/bpf/test_flow_room.py"


@dataclass(frozen=True)
class Fault:
    """What is wrong in one sentence, where, and the tests that are run for it.

    `quick` ones are in every test run; those of the `model` are also to be found by packets that are drawn at random.
    """

    sentence: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""  # as pytest -k
    window: Change | None = None
    quick: bool = False
    model: bool = False

    @property
    def changes(self) -> list[Change]:
        """The fault, then the window: the place of the one must not be hidden by the other."""
        fault = Change(self.file, self.old, self.new)
        return [fault] if self.window is None else [self.window, fault]


REWRITING = [
    Fault("the TTL is not decremented", "lib/forward.h", "\tip->ttl--;\n", "", PACKETS, quick=True, model=True),
    Fault("the hop limit is not decremented", "lib/forward.h", "\t\tip->hop_limit--;\n", "", PACKETS, model=True),
    Fault("the carry is lost where the checksum follows the TTL", "lib/forward.h",
          "ip->check = sum + (sum >= 0xffff);", "ip->check = sum;", PACKETS, quick=True, model=True),
    Fault("the carry comes one too late", "lib/forward.h", "(sum >= 0xffff)", "(sum > 0xffff)", PACKETS),
    Fault("the destination MAC is written over by the source MAC's first octets", "lib/forward.h",
          "(destination & MAC_WORD_MAC) | source << 48;", "(destination & MAC_WORD_MAC) | source << 40;", PACKETS),
    Fault("the MTU above a MAC is written into the frame", "lib/forward.h",
          "(destination & MAC_WORD_MAC) | source << 48;", "destination | source << 48;", PACKETS),
    Fault("source and destination MAC are swapped", "lib/forward.h",
          "rewrite(ctx, packet, hop->destination, hop->source)", "rewrite(ctx, packet, hop->source, hop->destination)",
          PACKETS, model=True),
    Fault("the source MAC is written but for its last two octets", "lib/forward.h",
          "*(__u32 *)(data + sizeof(__u64)) =", "*(__u16 *)(data + sizeof(__u64)) =", PACKETS),
    Fault("the padding is not cut off", "lib/forward.h", "\tif (padding > 0)\n", "\tif (padding > 1000)\n", PACKETS,
          model=True),
    Fault("the packet is rewritten before its egress is known to be there", "lib/forward.h",
          "\tverdict = choose_egress(packet->flags & PACKET_SEVERAL_BUFFERS,",
          "\trewrite(ctx, packet, hop->destination, hop->source);\n"
          "\tverdict = choose_egress(packet->flags & PACKET_SEVERAL_BUFFERS,", ADJACENCY, "egress_that_leaves",
          quick=True),
]  # fmt: skip

LIMITS = [
    Fault("a TTL of 1 is forwarded", "lib/forward.h", "packet->ttl <= 1", "packet->ttl < 1", PACKETS, model=True),
    Fault("a packet of exactly the MTU is too big", "lib/forward.h",
          "packet->l3_length > mac_word_top(hop->destination)", "packet->l3_length >= mac_word_top(hop->destination)",
          PACKETS, model=True),
    Fault("the MTU of every route is taken for Ethernet's", "lib/forward.h",
          "(__u64)fib.tot_len << 48", "1500ULL << 48", ADJACENCY, "routes_mtu"),
    Fault("a frame of several pages goes to a device that cannot take them", "lib/forward.h",
          "!(egress->flags & INTERFACE_EGRESS_FRAGS)", "false", PARSE, "large or page"),
]  # fmt: skip

PARSING = [
    Fault("a carry is lost where the checksum is verified", "lib/parse.h",
          "\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = (sum & 0xffff) + (sum >> 16);\n",
          "\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = sum & 0xffff;\n", PACKETS, quick=True),
    Fault("an IPv4 packet may be longer than its frame, by as much as an Ethernet header", "lib/parse.h",
          "offset + packet->l3_length > packet->length", "packet->l3_length > packet->length", PARSE),
    Fault("an IPv4 packet may be shorter than its header", "lib/parse.h",
          "packet->l3_length < header_length || ", "", PARSE),
    Fault("an IPv6 packet may be longer than its frame", "lib/parse.h",
          " || offset + l3_length > packet->length", "", PARSE),
    Fault("the version in an IPv4 header with options is not looked at", "lib/parse.h",
          "(version_and_length / 16 != 4 || header_length < sizeof(*ip))", "header_length < sizeof(*ip)", PARSE),
    Fault("the version in an IPv6 header is not looked at", "lib/parse.h", "ip->version != 6 || ", "", PARSE),
    Fault("a tagged packet counts as one that was never decided on", "lib/parse.h",
          "\treturn verdict == CONTINUE && packet->tags ? PASS_VLAN : verdict;\n", "\treturn verdict;\n", PARSE,
          quick=True),
    Fault("a hop-by-hop header is overlooked", "lib/judge.h",
          "\tif (packet->flags & PACKET_HOP_BY_HOP)\n\t\treturn PASS_OPTIONS;\n", "", PACKETS, model=True),
    Fault("IPv4 options are overlooked", "lib/judge.h",
          "\tif (packet->flags & PACKET_OPTIONS)\n\t\treturn PASS_OPTIONS;\n", "", PACKETS, model=True),
]  # fmt: skip

JUDGING = [
    Fault("another host's frame is taken, where only the first octet of its MAC differs", "lib/judge.h",
          "addressed != ingress->mac", "(addressed ^ ingress->mac) >> 8", PACKETS),
    Fault("addresses from 224.0.0.0 on are plain", "lib/judge.h", "octet - 1 < 223", "octet - 1 < 255", PACKETS),
    Fault("a packet to 127.0.0.0/8 is forwarded", "lib/judge.h",
          "destination >> 24 == 127 || destination >> 24 == 0", "destination >> 24 == 0", PACKETS, model=True),
    Fault("a link-local source is forwarded", "lib/judge.h",
          "\t    (source->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||\n", "", PACKETS),
    Fault("the filter of our own addresses looks at another bit", "lib/cache.h", ">> 23;", ">> 23 ^ 1;", PACKETS,
          quick=True),
    Fault("an operator's entry goes before our own address", "lib/forward.h",
          "\tif (id)\n\t\treturn ADJACENCY_ID_LOCAL;\n", "\tif (!id)\n\t\tid = NULL;\n", PACKETS, model=True),
]  # fmt: skip

TABLES = [
    Fault("a next hop is used whatever its state", "lib/forward.h",
          "known->state != ADJACENCY_READY", "known->state == ADJACENCY_CLAIMED", PACKETS, model=True),
    Fault("a learned answer out of the cache is used where learning is off", "lib/forward.h",
          "\tenum verdict verdict = may_use_learned(packet, ingress);\n\n\treturn verdict == CONTINUE ?",
          "\tenum verdict verdict = CONTINUE;\n\n\treturn verdict == CONTINUE ?", ADJACENCY, "learning_is_off",
          quick=True),
    Fault("a hairpin is forgotten where the answer comes out of the cache", "lib/forward.h",
          "\treturn verdict == CONTINUE ? may_leave(hop, ingress, ctx->ingress_ifindex) : verdict;\n",
          "\treturn verdict;\n", ADJACENCY, "hairpin", quick=True),
    Fault("the lease is ignored", "lib/cache.h",
          "return *(volatile __u64 *)&s->lease_deadline >= bpf_jiffies64();",
          "return *(volatile __u64 *)&s->lease_deadline < ~0ULL;", PACKETS, model=True),
    Fault("verdicts are counted in the row of another", "lib/verdict.h",
          "slot * VERDICT_SLOTS + verdict", "slot * VERDICT_SLOTS + (verdict ^ 1)", PACKETS),
    Fault("a next hop's octets are counted without the Ethernet header", "lib/adjacency.h",
          "counter->bytes += length;", "counter->bytes += length - 14;", PACKETS),
    Fault("a packet is counted under the id behind its next hop's", "lib/verdict.h",
          "count_next_hop(adjacency, length);", "count_next_hop(adjacency + 1, length);", ADJACENCY, "share"),
    Fault("a dry run fills the cache", "lib/cache.h",
          "\tif (dry_run)\n\t\treturn;\n\tif (packet->family == 4)\n", "\tif (packet->family == 4)\n", VERDICT,
          "dry_run"),
]  # fmt: skip

CACHING = [
    Fault("the tag is compared one bit short", "lib/cache.h",
          "\tsearch->index_bits = cache_mask;\n", "\tsearch->index_bits = cache_mask << 1 | 1;\n", CACHE,
          "own_adjacency and IPv4", quick=True),
    Fault("the generation is ignored", "lib/cache.h",
          "search->wanted = (__u64)search->generation << 32 | ", "search->wanted = 1ULL << 32 | ", CACHE, "new_entry",
          quick=True),
    Fault("an entry of the bucket beside is taken for one of this bucket", "lib/cache.h",
          "cache4_look(bucket, search->wanted | CACHE_DISPLACED, search->index_bits)",
          "cache4_look(bucket, search->wanted, search->index_bits)", ATTACK, "mixed_up and twins"),
    Fault("a displaced entry is put where an entry of that bucket would be", "lib/cache.h",
          "cache4_put(other, i, wanted | CACHE_DISPLACED, wanted | CACHE_DISPLACED | id)",
          "cache4_put(other, i, wanted, wanted | id)", ATTACK, "mixed_up and twins"),
    Fault("a valid way is taken for a stale one", "lib/cache.h",
          "\treturn ((way ^ wanted) & ~CACHE_DISPLACED) >> 32;\n", "\treturn way != wanted;\n", CACHE, "ways"),
    Fault("the low half of an IPv6 address is not compared", "lib/cache.h",
          "READ_WORD(way->address.halves[1]) != address->halves[1] ||", "false ||", CACHE, "own_adjacency and IPv6"),
    Fault("the high half of an IPv6 address is not compared", "lib/cache.h",
          "READ_WORD(way->address.halves[0]) != address->halves[0] ||", "false ||", CACHE, "own_adjacency and IPv6"),
]  # fmt: skip

# with the window held open; the same tests pass with the window alone (tests/bpf/test_attack.py)
RACES = [
    Fault("the word of an IPv6 way is not read again after the address", "lib/cache.h",
          " || READ_WORD(way->word) != word)", ")", ATTACK, "mixed_up and same",
          windows.WORD_THEN_ADDRESS),
    Fault("an IPv6 way is taken without compare-and-exchange", "lib/cache.h",
          "\tif (before == WAY_BUSY || __sync_val_compare_and_swap(&way->word, before, WAY_BUSY) != before)\n"
          "\t\treturn;\n", "\tWRITE_WORD(way->word, before & WAY_BUSY);\n", ATTACK, "mixed_up and same",
          windows.ADDRESS_THEN_WORD),
    Fault("an IPv6 way stays valid while its address is written", "lib/cache.h",
          "__sync_val_compare_and_swap(&way->word, before, WAY_BUSY)",
          "__sync_val_compare_and_swap(&way->word, before, before)", ATTACK, "mixed_up and same",
          windows.ADDRESS_THEN_WORD),
    Fault("an answer is stamped with the generation read after it was found", "lib/forward.h",
          "\t\tcache_store(&search, &packet, hop.id);\n",
          "\t\tbegin_search(s, &packet, &search), cache_store(&search, &packet, hop.id);\n",
          ATTACK, "move_over and shipped", windows.TABLES_THEN_STORE),
    Fault("an entry of a hash table is looked up once", "lib/forward.h",
          "\t\tif (again == id && *(volatile __u32 *)again == found)\n", "\t\tif (again || !again)\n",
          ATTACK, "anew_while and shipped", windows.ENTRY_THEN_ID),
    Fault("what the cache said under one generation holds in the next", "lib/forward.h",
          "search.generation != generation", "search.generation < generation", ATTACK, "on_their_way and shipped",
          windows.CACHE_THEN_BEHIND),
    Fault("two processors claim one adjacency for two next hops", "lib/adjacency.h",
          "\tif (__sync_val_compare_and_swap(&slot->state, ADJACENCY_FREE, ADJACENCY_CLAIMED) != ADJACENCY_FREE)\n"
          "\t\treturn false;\n", "", ATTACK, "handed_out and shipped", windows.CLAIM_THEN_WRITE),
    Fault("a next hop is known again by all but its MAC", "lib/adjacency.h",
          "a->destination == b->destination && ", "", ATTACK, "neighbours and shipped"),
]  # fmt: skip

CHOOSING = [
    Fault("a slot's state is not looked at", "lib/deliver.h",
          "if (word >> SLOT_STATE_SHIFT || service->flags & SERVICE_REMEMBERS)",
          "if (service->flags & SERVICE_REMEMBERS)", DRAWN, AGREE, quick=True),
    Fault("what an open slot does not remember goes to its new backend", "lib/slot.h",
          "\treturn CHOICE_BEFORE;\n", "\treturn CHOICE_NOW;\n", FLOW, quick=True, model=True),
    Fault("a connection that begins goes where the old ones are", "lib/slot.h",
          "if (begins_connection(segment) && (service->flags & vague) != SERVICE_ANY_PORT)",
          "if (begins_connection(segment) && (service->flags & vague) == ~0U)", FLOW, model=True),
    Fault("a SYN with ACK begins a connection", "lib/slot.h",
          "(segment & (SEGMENT_SYN | SEGMENT_ACK | SEGMENT_RST)) == SEGMENT_SYN",
          "(segment & SEGMENT_SYN) == SEGMENT_SYN", FLOW),
    Fault("the flow table is obeyed though the backend is dead", "lib/slot.h",
          "if (flags & BACKEND_DEAD || flow_overdue(", "if (flow_overdue(", FLOW, model=True),
    Fault("a backend that drains takes a connection whose ports it knows", "lib/slot.h",
          "return flags & BACKEND_DRAINING && begins_connection(segment) && !(service->flags & SERVICE_ANY_PORT);",
          "return flags & BACKEND_DRAINING && begins_connection(segment) && service->flags == ~0U;", FLOW,
          model=True),
    Fault("a reset is remembered", "lib/slot.h", "segment & (SEGMENT_RST | SEGMENT_QUOTED) ||",
          "segment & SEGMENT_QUOTED ||", FLOW, model=True),
    Fault("an ICMP error makes a flow known", "lib/slot.h", "segment & (SEGMENT_RST | SEGMENT_QUOTED) ||",
          "segment & SEGMENT_RST ||", DRAWN, AGREE),
    Fault("flows of a residual slot are remembered", "lib/slot.h",
          "return state_of(slot) == SLOT_OPEN || service->flags & SERVICE_REMEMBERS;",
          "return state_of(slot) != SLOT_CLOSED || service->flags & SERVICE_REMEMBERS;", FLOW, model=True),
    Fault("a flow that finds no room goes where its next segment does not", "lib/slot.h",
          "return state_of(slot) == SLOT_OPEN && !(segment & SEGMENT_UDP) ? before_of(slot) : number;",
          "return state_of(slot) == SLOT_OPEN && segment == ~0U ? before_of(slot) : number;", ROOM),
    Fault("an established flow gives way to a new one", "lib/flow.h",
          "return word & FLOW_ESTABLISHED ? 0 : EVICT_SINGLE | age;", "return EVICT_SINGLE | age;", ROOM),
    Fault("flows of TCP and of UDP are one where their ports are", "lib/slot.h",
          "(segment & SEGMENT_UDP ? FLOW_UDP : 0)", "0", FLOW),
]  # fmt: skip

SERVICES = [
    Fault("the last port of a range is not the service's", "lib/service.h", "port <= last", "port < last", FLOW,
          model=True),
    Fault("the seed of a service is ignored", "lib/service.h", "((__u64)ports << 32 | client) ^ service->seed",
          "((__u64)ports << 32 | client) ^ (service->seed & 1)", DRAWN, AGREE),
    Fault("fragments of a local VIP's service go to the kernel", "lib/balance.h", "if (!(vip->flags & VIP_LOCAL))",
          "if (vip->flags)", DRAWN, AGREE),
    Fault("a packet is too big for the next hop with its outer header, and goes", "lib/deliver.h",
          "if (flow->l3_length + overhead > mtu)", "if (flow->l3_length > mtu)", DRAWN, AGREE, quick=True),
    Fault("a packet without a hop left is balanced", "lib/deliver.h", "if (flow->ttl <= 1)", "if (flow->ttl < 1)",
          DRAWN, AGREE),
]  # fmt: skip

PUSHING = [
    Fault("the inner TTL is not decremented", "lib/push.h", "\tdecrement_inner(at + outer, inner->ipv6);\n", "", PUSH,
          quick=True, model=True),
    Fault("the type of service is not copied", "lib/push.h", "IPV4_NO_OPTIONS | inner->tos << 8 |",
          "IPV4_NO_OPTIONS |", PUSH, model=True),
    Fault("the outer IPv4 length leaves the UDP header out", "lib/push.h",
          "inner->length + sizeof(struct iphdr) + (gue ? sizeof(struct udphdr) : 0);",
          "inner->length + sizeof(struct iphdr);", PUSH, model=True),
    Fault("carries are lost in the outer checksum", "lib/push.h",
          "\tsum = (sum & 0xffff) + (sum >> 16);\n\tsum = (sum & 0xffff) + (sum >> 16);\n"
          "\tsum = (sum & 0xffff) + (sum >> 16);\n", "\tsum = (sum & 0xffff) + (sum >> 16);\n", PUSH, model=True),
]  # fmt: skip

TUNNELS = [
    Fault("any source may encapsulate", "lib/decap.h", "\tif (!tunnelled.row)\n\t\treturn DROP_NOT_ACCEPTED;\n", "",
          DECAP, quick=True, model=True),
    Fault("GUE is taken on any port", "lib/decap.h", " || !is_gue_port(udp->dest)", "", DECAP, model=True),
    Fault("congestion on the tunnel's way is forgotten", "lib/decap.h",
          "\tjoin_ecn(eth + 1, data_end, tunnelled->family, tunnelled->tos);\n", "", DECAP, model=True),
    Fault("an echo's checksum is that of the request", "lib/answer.h",
          "\ticmp->check = resummed(icmp->check, bpf_htons(ICMP_ECHO_ASKED << 8), bpf_htons(ICMP_REPLIED << 8));\n",
          "", DRAWN, AGREE),
    Fault("an error quotes four octets more than it may", "lib/answer.h", "#define QUOTE4 (576 - 28)",
          "#define QUOTE4 (580 - 28)", DRAWN, AGREE),
    Fault("an error is answered with an error", "lib/answer.h",
          "type != ICMP_UNREACHABLE && type != ICMP_SOURCE_QUENCHED &&", "type != ICMP_SOURCE_QUENCHED &&",
          DRAWN, AGREE),
    Fault("a later fragment that is quoted is taken to have ports", "lib/quoted.h",
          "version_and_length / 16 != 4 || length < sizeof(*ip) || ip->saddr != packet->destination.words[0] ||\n"
          "\t    ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET)",
          "version_and_length / 16 != 4 || length < sizeof(*ip) || ip->saddr != packet->destination.words[0]",
          DRAWN, AGREE),
    Fault("an error is taken to be about whomever it quotes", "lib/quoted.h",
          " || ip->saddr != packet->destination.words[0] ||", " || !packet ||", DRAWN, AGREE),
]  # fmt: skip

# all that is drawn for balance and decap, and not for forward, is compared by a model of its own
OF_BALANCE = [*CHOOSING, *SERVICES, *PUSHING, *TUNNELS]
FAULTS = [*REWRITING, *LIMITS, *PARSING, *JUDGING, *TABLES, *CACHING, *RACES, *OF_BALANCE]
