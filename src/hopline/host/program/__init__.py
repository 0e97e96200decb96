"""Anyone's BPF programs on this host: XDP on devices, LWT on routes. Nothing here needs the daemon.

build     a source compiled, an object inspected
load      on a device: attach, replace, unload; what was loaded by us is on record
routes    the same on routes
show      every program that is attached in this namespace
maps      maps found by pin, id or name; their values in words, by BTF
stats     verdicts by the second
log       what programs print
"""
