"""Anyone's BPF programs on this host: XDP on devices, LWT on routes. Nothing here needs the daemon.

build        a source compiled, an object inspected; objects: one checked, a program of it chosen and loaded
load         on a device: attached, replaced, taken off; seat: what sits there, and how the next takes its place
routes       the same on routes; identity: how a program there is told to be ours
record       what we loaded; pins: what is pinned of it; reuse: maps that outlive a reload; keep: the end of --for
signals      steps that a signal must not come between
show         every program that is attached in this namespace, or only loaded
maps         found by pin, id or name; table: their entries read, set, deleted, dumped
shapes       what keys and values are, from BTF; values: words to octets; rows and cells: octets to words, at speed
stats        verdicts by the second
log          what programs print
"""
