"""Others than who runs the tests: what they may reach."""

import tempfile
from pathlib import Path


def let_others_in(path: Path) -> None:
    """Let everybody through to `path`; pytest's directories are for one user, and are deeper where xdist runs it."""
    for place in (path, *path.parents):
        if place == Path(tempfile.gettempdir()):
            return
        place.chmod(0o755)
