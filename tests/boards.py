"""An Arm board without hardware: an arm64 tree under qemu, with a real sshd and a real adbd of its own.

The tree is built once, in EDGEKD_BOARDS or the user's cache, in some twenty seconds. Nothing that is timed
on it means anything. `python tests/boards.py` starts one, says how to name it, and runs until it is ended.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from debian import CONSTRAINTS, kept, unpack
from debian import run as _run

VERSION = "1"  # of the tree: raised when it is built otherwise
BINFMT = Path("/proc/sys/fs/binfmt_misc")
DEBIAN = "libc6 python3.11-minimal libpython3.11-stdlib libstdc++6 dash coreutils openssh-server".split()
BACKPORTS = ["adbd"]
WHEELS = "numpy onnxruntime ai-edge-litert flatbuffers protobuf packaging".split()
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
# Of a Cortex-A76: runtimes choose their kernels by it, so it must say what qemu is told to be.
CPU = "cortex-a76"
FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
)
CORE = (
    "processor\t: {n}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
)
# How its agent runs, as a device of edgekd's.
PYTHON = {"python": "python3.11", "packages": "/opt/site", "emulated": True}
USERS = "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"


def obstacle() -> str:
    """Why there can be no board here, or nothing."""
    if os.geteuid() != 0:
        return "only root can change into another root directory"
    for program in (
        "qemu-aarch64-static",
        "apt-get",
        "dpkg-deb",
        "unshare",
        "nsenter",
        "adb",
        "ssh-keygen",
        "ip",
        "update-binfmts",
    ):
        if shutil.which(program) is None:
            return (
                f"{program} is not installed (apt-get install qemu-user-static binfmt-support adb iproute2)"
            )
    if not (BINFMT / "register").exists():
        _run("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT, check=False)
    if not (BINFMT / "qemu-aarch64").exists():
        _run("update-binfmts", "--enable", "qemu-aarch64", check=False)
    if not (BINFMT / "qemu-aarch64").exists():
        return "this kernel starts no programs of other processors (binfmt_misc)"
    if _run("unshare", "-m", "-n", "true", check=False).returncode:
        return "this kernel gives no namespaces of their own (unshare)"
    return ""


def tree() -> Path:
    """The board's files, built where they are not there yet."""
    versions = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:8]
    return kept(f"arm64-{VERSION}-{versions}", _build)


def copy(folder: Path) -> Path:
    """A tree for one process of tests alone, in a moment: its files are links to those that were built."""
    root = folder / "board"
    _run("cp", "-al", tree(), root)
    return root


def _build(root: Path) -> None:
    unpack(root, "arm64", DEBIAN, BACKPORTS)
    target = root / "opt" / "site"
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", target, "--no-deps"]
    pip += ["--only-binary=:all:", "--python-version", "3.11", *platforms, "-c", CONSTRAINTS, *WHEELS]
    _run(*pip)
    for name in ("proc", "dev", "run/sshd", "root", "data/local/tmp", "sys/devices/system/cpu", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "data/local/tmp"):
        (root / name).chmod(0o1777)
    cores = "".join(CORE.format(n=n, features=FEATURES) for n in range(2))
    (root / "proc/cpuinfo").write_text(cores)
    for name in ("possible", "present", "online"):
        (root / "sys/devices/system/cpu" / name).write_text("0-1\n")
    (root / "etc/passwd").write_text(USERS)
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    for name in ("null", "zero", "random", "urandom"):
        _run("cp", "-a", f"/dev/{name}", root / "dev" / name)
    getprop = root / "usr/bin/getprop"  # Android's, which adbd asks
    getprop.write_text("#!/bin/sh\n")
    getprop.chmod(0o755)
    shell = root / "system/bin"
    shell.mkdir(parents=True)
    (shell / "sh").symlink_to("/bin/sh")


@contextlib.contextmanager
def sshd(root: Path, folder: Path):
    """An arm64 sshd on loopback: (port, file of the client's key, process). It is ended by its process id."""
    key, host = folder / "id", folder / "host"
    for file in (key, host):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
    port = _free_port()
    own = root / "etc/ssh" / str(port)
    own.mkdir()
    shutil.copy(key.with_suffix(".pub"), own / "clients")
    shutil.copy(host, own / "host")
    (own / "host").chmod(0o600)
    (own / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey /etc/ssh/{port}/host\nStrictModes no\nPidFile none\n"
        f"AuthorizedKeysFile /etc/ssh/{port}/clients\nPasswordAuthentication no\nUsePAM no\n"
        f"KbdInteractiveAuthentication no\nSetEnv QEMU_CPU={CPU}\n"
        "Subsystem sftp /usr/lib/openssh/sftp-server\n"
    )
    command = ["unshare", "-m", "chroot", root, "/usr/sbin/sshd", "-D", "-e", "-f", f"/etc/ssh/{port}/config"]
    with (folder / "sshd.log").open("w") as log:
        server = subprocess.Popen([*map(str, command)], stderr=log, env={**os.environ, "QEMU_CPU": CPU})
    try:
        _wait_for(port, server)
        yield port, key, server
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def adbd(root: Path, folder: Path):
    """An arm64 adbd in namespaces of its own: (port, a folder for PATH with `adb` in them, its process)."""
    port = 5599  # of a network that nobody else is in
    inner = (
        "ip link set lo up && exec env ADBD_PORT=$1 LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu/android "
        "chroot $2 /usr/lib/android-sdk/platform-tools/adbd"
    )
    with (folder / "adbd.log").open("w") as log:
        server = subprocess.Popen(
            ["unshare", "-m", "-n", "sh", "-c", inner, "sh", str(port), str(root)],
            stdout=log,
            stderr=log,
            env={**os.environ, "QEMU_CPU": CPU},
        )
    # The real client, where it can see the server.
    bin_ = folder / "bin"
    bin_.mkdir()
    script = bin_ / "adb"
    script.write_text(
        f"#!/bin/sh\nexport HOME={folder} ANDROID_ADB_SERVER_PORT=5038\n"
        f'exec nsenter --target {server.pid} --net {shutil.which("adb")} "$@"\n'
    )
    script.chmod(0o755)
    try:
        for _ in range(50):
            time.sleep(0.2)
            said = _run(script, "connect", f"127.0.0.1:{port}", check=False).stdout
            if "connected" in said:
                break
        assert "connected" in said, f"adbd does not answer: {said}"
        yield port, bin_, server
    finally:
        _run(script, "kill-server", check=False)
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_for(port: int, server: subprocess.Popen) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert server.poll() is None, "sshd ended"
        time.sleep(0.2)
    raise AssertionError("sshd does not answer")


def processes_of(root: Path) -> list[int]:
    """Agents that run on the board: none, when nothing is asked of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes()
            # The shell that starts it names it too.
            if (path / "root").readlink() == root and b"agent.pyz" in command and b"\0-c\0" not in command:
                found.append(int(path.name))
    return found


def end(pid: int) -> None:
    """Ends a process that a test started."""
    os.kill(pid, signal.SIGKILL)


def main() -> None:
    """A board over SSH until it is interrupted."""
    if told := obstacle():
        sys.exit(f"no board here: {told}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended either way, it takes its sshd along
    with tempfile.TemporaryDirectory() as place, sshd(copy(Path(place)), Path(place)) as (port, key, server):
        print(
            f"edgekd devices add emulated-arm --via ssh://root@127.0.0.1:{port} --identity {key} \\\n"
            f"  --known-hosts {place}/known --accept-new --emulated \\\n"
            "  --python python3.11 --packages /opt/site\n"
            "or, with neither root nor a server, and for --count-instructions:\n"
            f"edgekd devices add emulated-arm --via qemu://{tree()} --cpu {CPU} \\\n"
            "  --python python3.11 --packages /opt/site",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


if __name__ == "__main__":
    main()
