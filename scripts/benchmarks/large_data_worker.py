"""Opens, batches or evaluates one large data set, and prints what that took as JSON.

A program of its own, so that memory and time are those of one step. It uses nothing
but public names, so that it can measure earlier versions of the package too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from gluon_compress import data
from gluon_compress.evaluate import precisions

SPLIT, FOLDERS = "train", 1000
BATCH, SIZE, DETECTIONS = 32, 64, 100
STEPS = ("open", "batch", "evaluate")


def open_set(layout: str, root: Path) -> Any:
    """Return the data set of a folder that ``large_sets`` has written."""
    if layout == "voc":
        return data.VOCLayout(root, SPLIT)
    if layout == "coco":
        return data.coco_gluoncv(root, SPLIT)
    if layout == "folder":
        return data.ImageFolder(root / SPLIT)
    names = [f"class_{number:04}" for number in range(FOLDERS)]
    return data.Records(root / f"{SPLIT}.rec", names)


def batches_of(dataset: Any, *, shuffle: bool) -> data.Batches:
    """Return batches of a set's images, at a size that costs next to nothing."""
    preprocess = data.Preprocess(
        height=SIZE, width=SIZE, keep_ratio=False, mean=(0, 0, 0), std=(1, 1, 1)
    )
    return data.Batches(
        dataset,
        preprocess.sample,
        BATCH,
        shuffle=shuffle,
        normalized=preprocess.inputs,
    )


def stand_in(labels: Any, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return detections of objects, moved a little, and false ones of their classes."""
    labels = labels.asnumpy()
    count = np.maximum(1, (labels[..., 4] >= 0).sum(axis=1))
    chosen = np.arange(DETECTIONS) % count[:, None]
    rows = np.take_along_axis(labels, chosen[..., None], axis=1)
    rounds = np.arange(DETECTIONS) // count[:, None]
    moved = rng.normal(size=(*rounds.shape, 4)) * (1 + 4 * rounds[..., None])
    scores = rng.random(rounds.shape) / (1 + rounds)
    boxes = rows[..., :4] + moved
    values = (rows[..., 4:5], scores[..., None], boxes)
    return tuple(value.astype(np.float32) for value in values)


def run(layout: str, root: Path, step: str, images: int) -> dict[str, Any]:
    """Do a step and return its figures."""
    imported = peak_mb()
    begun, cpu = time.perf_counter(), time.process_time()
    dataset = open_set(layout, root)
    figures: dict[str, Any] = {"images": len(dataset)}
    if step != "open":
        opened = time.process_time()
        batches = batches_of(dataset, shuffle=step == "batch").epoch(0)
        chosen: Iterator = islice(batches, -(-images // BATCH))
        if step == "batch":
            figures["used"] = sum(len(batch[0]) for batch in chosen)
        else:
            used = []

            def labels_alone() -> Iterator:
                for pixels, labels in chosen:
                    used.append(len(pixels))
                    yield labels, labels

            detect = partial(stand_in, rng=np.random.default_rng(0))
            names = dataset.classes
            found = precisions(detect, labels_alone(), names, size=SIZE)
            figures.update(used=sum(used), mAP=found["mAP"])
        figures["cpu_after_opening"] = time.process_time() - opened
    return {
        **figures,
        "cpu": time.process_time() - cpu,
        "seconds": time.perf_counter() - begun,
        "imported_mb": imported,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    _, layout, root, step, images = sys.argv
    print(json.dumps(run(layout, Path(root), step, int(images))))
