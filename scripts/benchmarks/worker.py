"""Times nets of one runtime in a process of its own: JSON in, JSON out.

``nets``: several nets take turns in blocks, A B A B, so that what else the machine does
affects all of them. The first runs of a block are not counted: they bring back a net's
weights, and end what another runtime's threads were waiting for.

``ways``: the way from image files to boxes, piece by piece. All ways take turns, and
each goes over the same files; times are milliseconds an image.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any, Callable

WARM_UP, COUNTED = 2, 4  # runs of a block
WARM_UP_ROUNDS = 1  # over all files, that are not counted
WAYS = {
    "head": "the head graph, on preprocessed images",
    "boxes": "head graph, decoding and NMS, on preprocessed images",
    "files": "from an image file to boxes in its pixels, one file at a time",
    "stream": "the same, reading the next file while the net runs",
}


def time_nets(task: dict[str, Any]) -> dict[str, Any]:
    """Return milliseconds of each run by net, and the memory that was needed."""
    import numpy as np

    from gluon_compress.deployment.runtimes import RUNTIMES

    threads = None if task["runtime"] == "mxnet" else task["threads"]
    before, runs = peak_memory(), {}
    for name, (files, shape) in task["nets"].items():
        run = RUNTIMES[task["runtime"]].open(list(map(Path, files)), threads)
        noise = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
        runs[name] = (run, noise)
        run(noise)
    # What else a machine does adds nothing to the CPU time of one thread.
    clock = time.process_time if task["threads"] == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + task["seconds"]
    while time.monotonic() < end or not all(times.values()):
        for name, (run, noise) in runs.items():
            for i in range(WARM_UP + COUNTED):
                start = clock()
                run(noise)
                if i >= WARM_UP:
                    times[name].append(1e3 * (clock() - start))
    return {"ms": times, "memory": peak_memory() - before}


def peak_memory() -> int:
    """Return the largest memory that this process had, bytes."""
    # Not getrusage: a new process begins with what its parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s*(\d+)", status)
    assert peak is not None, "Linux states it"
    return 1024 * int(peak[1])


def time_ways(task: dict[str, Any]) -> dict[str, list[float]]:
    """Return milliseconds an image of each round, by way."""
    ways = ways_of(task)
    times: dict[str, list[float]] = {name: [] for name in ways}
    end, rounds = time.monotonic() + task["seconds"], 0
    while rounds <= WARM_UP_ROUNDS or time.monotonic() < end:
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if rounds >= WARM_UP_ROUNDS:
                seconds = time.perf_counter() - start
                times[name].append(1e3 * seconds / len(task["files"]))
        rounds += 1
    return times


def ways_of(task: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return what is timed; each call goes over all files once."""
    from gluon_compress.data.images import read_image
    from gluon_compress.deployment import Predictor

    threads = None if task["runtime"] == "mxnet" else task["threads"]
    predictor = Predictor(
        task["folder"], task["runtime"], precision=task["precision"], threads=threads
    )
    files = task["files"]
    inputs = [predictor.preprocess(read_image(file))[0] for file in files]
    return {
        "head": lambda: [predictor.outputs(batch) for batch in inputs],
        "boxes": lambda: [predictor.detect(batch) for batch in inputs],
        "files": lambda: [predictor([read_image(file)]) for file in files],
        "stream": lambda: list(predictor.stream(files)),
    }


TIMERS = {"nets": time_nets, "ways": time_ways}

if __name__ == "__main__":
    TASK = json.loads(sys.argv[1])
    print(json.dumps(TIMERS[TASK["time"]](TASK)), flush=True)
