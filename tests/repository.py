"""The files of the repository, for tests that read it."""

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__"}


@cache
def files() -> tuple[Path, ...]:
    """Every file, those not yet committed with them, what git ignores left out."""
    if (ROOT / ".git").exists():
        # root may test a checkout that another user owns
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        found = (ROOT / name for name in listed.split("\0") if name)
    else:
        # a copy without its history: what is made by building and testing is told by its name
        found = (
            path for path in ROOT.rglob("*") if not NOT_OURS & set(path.parts) and path.suffix not in (".o", ".so")
        )
    return tuple(sorted(path for path in found if path.is_file()))


def named(path: Path) -> str:
    """A file's path from the root, as messages and tables have it."""
    return path.relative_to(ROOT).as_posix()
