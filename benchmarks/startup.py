"""How long a user waits: for `edgekd --help`, and for a finished run repeated, beside an empty Python.

Neither imports torch.

Prints a table; the last line is one JSON document.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 15
REPEATS = 5
LIMITS_S = {"help_s": 0.3, "repeat_s": 2.0}


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    empty, help_ = [], []
    for _ in range(RUNS):  # in turns, so that a slow spell meets both
        empty.append(seconds("-c", "pass"))
        help_.append(seconds("-m", "edgekd", "--help"))
    code = "import sys; sys.argv = ['edgekd', '--help']\nimport edgekd.cli\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    found = {
        "python_s": statistics.median(empty),
        "help_s": statistics.median(help_),
        "repeat_s": repeated_run(),
    }
    for name, value in found.items():
        print(f"{name:10} {value:6.3f} s")
    print(json.dumps({"benchmark": "startup", **found, "limits_s": LIMITS_S}))
    return 0 if all(found[name] <= limit for name, limit in LIMITS_S.items()) else 1


def repeated_run() -> float:
    """A smoke run of the digits recipe on all its targets, made once, then asked for again."""
    command = [sys.executable, "-m", "edgekd", "run", "digits", "--set", "smoke=true"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "EDGEKD_STORE": f"{folder}/store"}
        seen = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            subprocess.run(
                [*command, "--workdir", f"{folder}/run"], capture_output=True, env=environment, check=False
            )
            seen.append(time.perf_counter() - start)
    return statistics.median(seen[1:])


if __name__ == "__main__":
    sys.exit(main())
