"""Times the way from image files to boxes, piece by piece: JSON in, JSON out.

All ways take turns, and each goes over the same files; what is given is milliseconds an
image.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Callable

WAYS = {
    "head": "the head graph, on prepared images",
    "boxes": "head graph, decode and NMS, on prepared images",
    "files": "from a file to boxes in its pixels, one file after the other",
    "stream": "the same, the next file being read while the net runs",
}
WARM = 1  # rounds that are not counted


def ways_of(task: dict) -> dict[str, Callable]:
    """Return what is timed; each call goes over all files once."""
    from gluon_compress.data.images import read_image
    from gluon_compress.deployment import Predictor

    threads = None if task["runtime"] == "mxnet" else task["threads"]
    how = {"precision": task["precision"], "threads": threads}
    predictor = Predictor(task["folder"], task["runtime"], **how)
    files = task["files"]
    inputs = [predictor.preprocess(read_image(file))[0] for file in files]
    return {
        "head": lambda: [predictor.outputs(batch) for batch in inputs],
        "boxes": lambda: [predictor.detect(batch) for batch in inputs],
        "files": lambda: [predictor([read_image(file)]) for file in files],
        "stream": lambda: list(predictor.stream(files)),
    }


def timed(task: dict) -> dict[str, list[float]]:
    """Return milliseconds an image of each round, by way."""
    ways = ways_of(task)
    times: dict[str, list[float]] = {name: [] for name in ways}
    end, rounds = time.monotonic() + task["seconds"], 0
    while rounds <= WARM or time.monotonic() < end:
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if rounds >= WARM:
                passed = time.perf_counter() - begun
                times[name].append(1e3 * passed / len(task["files"]))
        rounds += 1
    return times


if __name__ == "__main__":
    print(json.dumps(timed(json.loads(sys.argv[1]))), flush=True)
