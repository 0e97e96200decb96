"""What the kernel's control plane says: links, neighbours, addresses, routes, and what would forbid skipping it.

    wire       the netlink protocol itself: sockets, messages, attributes
    types      what is read, and the events of a watch
    query      one question, one answer         change     make it so (pyroute2)
    watch      everything that can make a learned forwarding answer stale, as it happens
    policy     what the kernel's own path does that XDP would skip (hooks, tc, routes feed it)
    features   which devices can take a redirect         traps      where virtual devices lose packets
    neighbour  keep next hops resolved                   ethtool    offloads

Everything acts in the network namespace of the calling thread.
"""
