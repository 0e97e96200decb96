"""The windows of a race, each widened by a pause: what two processors do to each other once in a billion packets is
then done in every second one. The program is as right with a pause as without, so every test must pass with it.

3 µs are many times what another processor needs to write a way or an adjacency; 50 µs, what a daemon needs to write
some entries and bump the generation.
"""

from faults.builder import Change

# IPv6: the word of a way is read, then the address beside it
WORD_THEN_ADDRESS = Change(
    "lib/cache.h",
    "difference > index_bits || READ_WORD(way->address.halves[0]) != address->halves[0]",
    "difference > index_bits || pause(3000) || READ_WORD(way->address.halves[0]) != address->halves[0]",
)
# IPv6: a way is chosen, then taken
CHOSEN_THEN_TAKEN = Change(
    "lib/cache.h",
    "\t__u64 before = READ_WORD(way->word);\n",
    "\t__u64 before = READ_WORD(way->word);\n\n\tpause(3000);\n",
)
# IPv6: the address of a way is written, then its word
ADDRESS_THEN_WORD = Change(
    "lib/cache.h",
    "\tWRITE_WORD(way->address.halves[1], low);\n",
    "\tWRITE_WORD(way->address.halves[1], low);\n\tpause(3000);\n",
)
# the cache is asked, then the generation is read anew for what is behind it
CACHE_THEN_BEHIND = Change(
    "lib/forward.h",
    "\tbool leased = begin_search(s, &packet, &search);\n",
    "\tpause(50000);\n\tbool leased = begin_search(s, &packet, &search);\n",
)
# the generation is read, then the tables
GENERATION_THEN_TABLES = Change(
    "lib/forward.h",
    "\tnote_search(search.generation, leased);\n",
    "\tnote_search(search.generation, leased);\n\tpause(50000);\n",
)
# the tables are read, then their answer is cached
TABLES_THEN_STORE = Change(
    "lib/forward.h",
    "\tif (leased && hop.id != cached && hop.id != ADJACENCY_ID_NONE)\n",
    "\tpause(50000);\n\tif (leased && hop.id != cached && hop.id != ADJACENCY_ID_NONE)\n",
)
# an entry is found in its table, then its id is read
ENTRY_THEN_ID = Change(
    "lib/forward.h",
    "\t\tfound = *(volatile __u32 *)id;\n",
    "\t\tpause(3000);\n\t\tfound = *(volatile __u32 *)id;\n",
)
PREFIX_THEN_ID = Change(
    "lib/forward.h",
    "\tif (id)\n\t\treturn *id;\n\tnote_lookup(LOOKUP_NONE);\n",
    "\tif (id && !pause(3000))\n\t\treturn *id;\n\tnote_lookup(LOOKUP_NONE);\n",
)
# an adjacency's id is known, then its words are read, one and the other
ID_THEN_ADJACENCY = Change(
    "lib/forward.h",
    "\thop->destination = *(volatile __u64 *)&known->destination;\n",
    "\tpause(3000);\n\thop->destination = *(volatile __u64 *)&known->destination;\n",
)
DESTINATION_THEN_SOURCE = Change(
    "lib/forward.h",
    "\thop->source = *(volatile __u64 *)&known->source;\n",
    "\tpause(3000);\n\thop->source = *(volatile __u64 *)&known->source;\n",
)
# a free adjacency is claimed, then written
CLAIM_THEN_WRITE = Change(
    "lib/adjacency.h",
    "\tslot->destination = learned->destination;\n",
    "\tpause(50000);\n\tslot->destination = learned->destination;\n",
)
