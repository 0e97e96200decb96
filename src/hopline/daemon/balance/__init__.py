"""The kernel state of `balance` and `decap`, owned by one daemon: written, read back, aged and shown.

maps      typed access to the mapped arrays       blocks   runs of elements and rows, given out and taken back
vips      VIPs, their rules and port pages        hops     next hops towards backends
served    one service: its rows, its ring         balancer all of them: what changes, events and health act on
clock     ticks, ageing and the sweep             wire     VIPs that are addresses of a device here
recovery  what the kernel says of lost services   rows     what people are shown
decaps    accepted pairs of outer addresses
"""
