"""A GPU without hardware: Mesa's lavapipe, a Vulkan driver that computes on the processor.

It is unpacked once, in EDGEKD_BOARDS or the user's cache; nothing is installed. Beside it stands a folder of
packages with onnxruntime-webgpu, which cannot be in one environment with onnxruntime. Nothing that is timed
on it means anything.
"""

import platform
import shutil
import sys
from pathlib import Path

from debian import CONSTRAINTS, kept, run, unpack

# Mesa 22, bookworm's own, is too old: onnxruntime-webgpu finds no adapter in it.
BACKPORTS = ["mesa-vulkan-drivers", "libvulkan1"]
# Python itself has loaded these, and a process can have them only once.
OURS = ["libc6", "libgcc-s1", "libstdc++6", "gcc-12-base"]
WHEELS = ["onnxruntime-webgpu==1.27.0", "numpy", "flatbuffers", "packaging", "protobuf"]
# A driver that is not there: so is a computer without a GPU, also where it has one.
NONE = {name: "/nonexistent/icd.json" for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")}


def obstacle() -> str:
    """Why there can be none here, or nothing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the tests' software GPU is for Linux on x86-64"
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            return f"{program} is not installed: the tests' software GPU is a package of Debian"
    return ""


def environment() -> dict[str, str]:
    """Variables for a process that is to find lavapipe, and no other GPU."""
    root = kept("lavapipe-1", lambda folder: unpack(folder, "amd64", backports=BACKPORTS, without=OURS))
    driver = str(root / "usr/share/vulkan/icd.d/lvp_icd.json")
    folders = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    compiled = root.parent / "lavapipe-shaders"  # by the hash of each: seconds, where one was compiled before
    compiled.mkdir(exist_ok=True)
    return {
        "VK_DRIVER_FILES": driver,
        "VK_ICD_FILENAMES": driver,
        "LD_LIBRARY_PATH": ":".join(map(str, folders)),
        "MESA_SHADER_CACHE_DIR": str(compiled),
    }


def webgpu() -> Path:
    """A folder of packages for PYTHONPATH with onnxruntime-webgpu."""
    return kept(f"webgpu-1-{sys.implementation.cache_tag}", _install)


def _install(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run(*pip, "--only-binary=:all:", "--target", folder, "-c", CONSTRAINTS, *WHEELS)
