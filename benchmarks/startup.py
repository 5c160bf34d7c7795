"""How long a user waits for `edgekd --help`, beside an empty Python; the command must not import torch.

Prints a table; the last line is one JSON document.
"""

import json
import statistics
import subprocess
import sys
import time

RUNS = 15
LIMIT_S = 0.3


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
    found = {"python_s": statistics.median(empty), "help_s": statistics.median(help_), "limit_s": LIMIT_S}
    print(f"{'empty Python':20} {found['python_s']:.3f} s\n{'edgekd --help':20} {found['help_s']:.3f} s")
    print(json.dumps({"benchmark": "startup", **found}))
    return 0 if found["help_s"] <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
