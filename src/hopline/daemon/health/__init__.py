"""Health checks: whether each backend of a service answers, asked every so often, told when that changes.

    targets    which checks a service's backends need; equal ones are one
    schedule   when each is made: spread, with jitter, a few at a time
    probe      how it is made: TCP, HTTP(S), UDP; http and echo are what that takes
    sockets    waiting for them, and where they come from
    outcome    what it found, in words; verdict: rise and fall
    tunnel     checks of the VIP itself, through the tunnel to one backend; room: the namespace for them
    report     what changed, gathered for a moment
    monitor    all of it, as the daemon uses it

Everything here runs in the daemon's event loop, but for what the kernel is asked to set up, which has a thread.
"""

from hopline.daemon.health.monitor import Health, HealthRow

__all__ = ["Health", "HealthRow"]
