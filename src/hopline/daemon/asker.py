"""Who asks: set by the door that a request came in by, read where a change is recorded."""

from contextvars import ContextVar

NOBODY = "the daemon itself"

asker: ContextVar[str] = ContextVar("asker", default=NOBODY)
