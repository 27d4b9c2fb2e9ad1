"""Claim: `import jaxmup` adds at most 0.2 s to `import jax`.

Each import runs in a fresh interpreter, the two in turn; the time is that of the import statement,
and the difference is that of the medians.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from _record import RESULTS, write_record

CLAIM = 0.2
OUT = RESULTS / "import_time.json"
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """How long a fresh interpreter takes to import `module`."""
    command = [sys.executable, "-c", TIMED.format(module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measures, prints a table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    modules = ("jax", "jaxmup")
    for module in modules:
        seconds(module)  # fills the file cache
    samples: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(args.repeats):
        for module in modules:
            samples[module].append(seconds(module))
    medians = {module: statistics.median(times) for module, times in samples.items()}
    added = medians["jaxmup"] - medians["jax"]
    for module, median in medians.items():
        print(f"import {module:<8}{median:>7.3f} s")
    print(f"added          {added:>7.3f} s  claim: at most {CLAIM} s, ", end="")
    print("holds" if added <= CLAIM else "FAILS")
    measured = {
        "repeats": args.repeats,
        "seconds": samples,
        "median_seconds": medians,
        "added_seconds": added,
        "claim": CLAIM,
    }
    write_record(args.out, measured, *modules)


if __name__ == "__main__":
    main()
