"""Debian's kernels for the VMs: packages of other releases, unpacked beside the machine's own and never installed.

Where they come from is derived from the machine's own apt sources: another release, the same place.
"""

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("/var/cache/hopline-kernels")
BOOT, MODULES = Path("/boot"), Path("/lib/modules")
METAPACKAGE = f"linux-image-{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }"


@dataclass(frozen=True)
class Kernel:
    """One of Debian's kernels: its series, and the release of Debian that has it."""

    series: str
    release: str


KERNELS = (Kernel("6.1", "bookworm"), Kernel("6.12", "bookworm-backports"), Kernel("5.10", "bullseye"))


def output(*command: str) -> str:
    """What a command prints; CalledProcessError if it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def unpacked(kernel: Kernel) -> str | None:
    """The newest version of this series that is in /boot, with its modules."""
    found = (path.name.removeprefix("vmlinuz-") for path in BOOT.glob(f"vmlinuz-{kernel.series}.*"))
    there = [version for version in found if (MODULES / version / "modules.dep").exists()]
    return max(there, key=lambda version: [int(part) for part in re.findall(r"\d+", version)], default=None)


def ensure(kernel: Kernel) -> str:
    """Its version, unpacked to /boot and /lib/modules if it was not yet."""
    return unpacked(kernel) or unpack(download(kernel))


def apt_options() -> list[str]:
    """Options of apt for lists of the kernels' releases, kept apart from the machine's own."""
    place = CACHE / "apt"
    for directory in ("lists/partial", "archives/partial"):
        (place / directory).mkdir(parents=True, exist_ok=True)
    sources = place / "sources.list"
    sources.write_text("".join(f"deb {archive()} {kernel.release} main\n" for kernel in KERNELS))
    settings = {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-", "Dir::State::lists": place / "lists",
                "Dir::Cache": place, "APT::Sandbox::User": "root"}  # fmt: skip
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def archive() -> str:
    """Where this machine gets the release of Debian that it is."""
    own = platform.freedesktop_os_release().get("VERSION_CODENAME")
    targets = ("Created-By: Packages", "Origin: Debian", f"Codename: {own}")
    sites = output("apt-get", "indextargets", "--format", "$(SITE)", *targets).split()
    if not sites:
        raise SystemExit("test-kernels: apt knows no source of Debian's own release: on Debian, run apt-get update")
    return sites[0]


def download(kernel: Kernel) -> Path:
    """Its package, in the cache."""
    options = apt_options()
    subprocess.run(["apt-get", *options, "update", "-qq"], check=True)
    # the metapackage of a release depends on its newest kernel
    versions = (line.split(" | ") for line in output("apt-cache", *options, "madison", METAPACKAGE).splitlines())
    version = next(row[1].strip() for row in versions if f" {kernel.release}/" in row[2])
    depends = output("apt-cache", *options, "show", f"{METAPACKAGE}={version}")
    package = next(
        word.strip(",") for line in depends.splitlines() if line.startswith("Depends:") for word in line.split()[1:]
    )
    subprocess.run(["apt-get", *options, "download", "-qq", f"{package}/{kernel.release}"], cwd=CACHE, check=True)
    return max(CACHE.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)


def unpack(package: Path) -> str:
    """Put the kernel and its modules where a VM looks for them; the version.

    By way of a directory of its own: unpacked onto / it could put a directory in place of a symbolic link.
    """
    place = CACHE / "unpacked"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", package, place], check=True)
    image = next((place / "boot").glob("vmlinuz-*"))
    version = image.name.removeprefix("vmlinuz-")
    modules = next(path for path in (place / "lib/modules", place / "usr/lib/modules") if path.is_dir())
    MODULES.mkdir(exist_ok=True)
    shutil.rmtree(MODULES / version, ignore_errors=True)
    shutil.move(modules / version, MODULES / version)
    subprocess.run(["depmod", version], check=True)
    shutil.copy(image, BOOT / image.name)
    shutil.rmtree(place)
    return version
