"""Debian's packages of any architecture in a folder, kept from one run of the tests to the next."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("EDGEKD_BOARDS") or Path.home() / ".cache" / "edgekd-boards")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, built where it is not there yet, by one process at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of pytest
        root = CACHE / name
        if not root.exists():
            new = Path(tempfile.mkdtemp(dir=CACHE))
            build(new)
            new.chmod(0o755)
            new.rename(root)
    return root


def unpack(
    root: Path,
    architecture: str,
    bookworm: Sequence[str] = (),
    backports: Sequence[str] = (),
    without: Sequence[str] = (),
) -> None:
    """Packages with all that they need, from where this machine has its own from; but for `without`."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        options = _options(place, architecture)
        run("apt-get", *options, "update", "-qq")
        install = ["apt-get", *options, "--yes", "-qq", "--download-only", "install"]
        for suite, packages in (("bookworm", bookworm), ("bookworm-backports", backports)):
            if packages:
                run(*install, "-t", suite, *packages)
        for package in sorted((place / "cache/archives").glob("*.deb")):
            if package.name.partition("_")[0] not in without:
                run("dpkg-deb", "-x", package, root)


def _options(place: Path, architecture: str) -> list[str]:
    """Settings of an apt of its own, for which nothing is installed."""
    # Also where nothing was updated yet, when apt knows of no release.
    asked = [
        "apt-get",
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
    ]
    lines = run(*asked, "Created-By: Packages").stdout.splitlines()
    own = next((line.split() for line in lines if line.endswith("bookworm main")), None)
    assert own is not None, f"this machine has no packages of Debian bookworm: {lines}"
    keys = f"[arch={architecture} signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    suites = ("bookworm", "bookworm-backports")
    (place / "sources.list").write_text("".join(f"deb {keys} {own[0]} {suite} main\n" for suite in suites))
    (place / "status").touch()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": place / "state",
        "Dir::State::lists": place / "lists",
        "Dir::State::status": place / "status",
        "Dir::Cache": place / "cache",
    }
    for name in ("state", "lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program's output; where `check` says so, it must not fail."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done
