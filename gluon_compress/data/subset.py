"""Random subsets of data sets, and what a data set counts."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.data.class_choice import MOST_NAMES
from gluon_compress.validation import few


class Subset:
    """Some images of a data set.

    Parameters
    ----------
    dataset
        ``len`` and ``[i]`` -> (image, label).
    indices : sequence of int
    """

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple:
        return self.dataset[self.indices[index]]

    @property
    def problems(self) -> Sequence[tuple[str, str]]:
        """Those of the whole data set."""
        return getattr(self.dataset, "problems", ())

    def note_broken(self, index: int, reason: str) -> None:
        """Note that an item is broken, as another process has found."""
        if hasattr(self.dataset, "note_broken"):
            self.dataset.note_broken(self.indices[index], reason)


def draw_subset(dataset: Any, count: int, *, seed: int = 0) -> Any:
    """Return a random subset of a data set.

    Parameters
    ----------
    dataset
        ``len`` and ``[i]`` -> (image, label).
    count : int
        Number of images; if there are fewer, all of them.
    seed : int
    """
    order = np.random.default_rng(seed).permutation(len(dataset))
    indices = [int(i) for i in order[:count]]
    return Subset(dataset, indices)


def absent_classes(subset: Subset, classes: Sequence[str]) -> list[str]:
    """Return the classes that no image of a subset shows; difficult objects count."""
    # Both kinds of data sets know their labels without reading pixels.
    dataset = subset.dataset
    present: set[int] = set()
    for index in subset.indices:
        if hasattr(dataset, "label"):  # of a detector
            present.update(int(number) for number in dataset.label(index)[:, 4])
        else:
            present.add(int(dataset.labels[index]))
    return [name for number, name in enumerate(classes) if number not in present]


def count_images(dataset: Any) -> dict:
    """Return how many images a data set has and skips, its repairs, what it ignores.

    ``images`` are those that can be used, as far as they have been read. ``repairs`` is
    there if the data set makes any; ``ignored`` and ``absent`` as in
    ``ClassChoice.counts``.
    """
    repairs = getattr(dataset, "repairs", None)
    broken = getattr(dataset, "broken", 0)
    skipped = getattr(dataset, "skipped", 0) + broken
    counts: dict[str, Any] = {"images": len(dataset) - broken, "skipped": skipped}
    if repairs is not None:
        counts["repairs"] = {name: n for name, n in repairs.items() if n}
    return {**counts, **getattr(dataset, "class_counts", {})}


def describe_counts(counts: Mapping[str, Any]) -> list[str]:
    """Return a line on repairs, on ignored objects and on absent classes, if any."""
    lines = []
    if counts.get("repairs"):
        lines.append(f"repairs: {_numbers(counts['repairs'])}")
    if counts.get("ignored"):
        objects, images = counts["ignored"]["objects"], counts["ignored"]["images"]
        lines.append(
            f"other classes ignored: {_numbers(objects) or 'none'}; "
            f"images left out, without any of the chosen ones: {images}"
        )
    if counts.get("absent"):
        lines.append(f"no object of {few(counts['absent'], MOST_NAMES)}")
    return lines


def most_objects(dataset: Any) -> int:
    """Return the largest number of objects in an image, difficult ones left out."""
    labels = (dataset.label(i) for i in range(len(dataset)))
    return max((int((label[:, 5] == 0).sum()) for label in labels), default=0)


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
