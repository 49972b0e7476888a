"""Times nets of one runtime in turn, in a process of its own: JSON in, JSON out.

Nets take turns in blocks, A B A B: what the machine does beside, it does to all. The
first runs of a block are not counted: they bring back a net's weights, and end what
another runtime's threads were waiting for.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

WARM, COUNTED = 2, 4


def peak() -> int:
    """Return the largest memory that this process had, bytes."""
    # Not getrusage: a new process begins with what its parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def timed(task: dict) -> dict:
    """Return milliseconds of each run by net, and the memory that was needed."""
    import numpy as np

    from gluon_compress.deployment.runtimes import RUNTIMES

    threads = None if task["runtime"] == "mxnet" else task["threads"]
    before, runs = peak(), {}
    for name, (files, shape) in task["nets"].items():
        run = RUNTIMES[task["runtime"]].open(list(map(Path, files)), threads)
        noise = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
        runs[name] = (run, noise)
        run(noise)
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + task["seconds"]
    while time.monotonic() < end or not all(times.values()):
        for name, (run, noise) in runs.items():
            for i in range(WARM + COUNTED):
                begun = time.perf_counter()
                run(noise)
                if i >= WARM:
                    times[name].append(1e3 * (time.perf_counter() - begun))
    return {"ms": times, "memory": peak() - before}


if __name__ == "__main__":
    print(json.dumps(timed(json.loads(sys.argv[1]))), flush=True)
