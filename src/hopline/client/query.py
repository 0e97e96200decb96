"""How values are said in a request's path and query."""

from urllib.parse import quote


def flag(value: bool) -> str | None:
    """Return what says that something is to be so; nothing is said where it is not."""
    return "true" if value else None


def path(*parts: str) -> str:
    """Return a path of names that have been checked: a slash, even quoted, would name another resource."""
    return "".join(f"/{quote(part, safe=':')}" for part in parts)
