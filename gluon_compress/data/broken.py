"""Images that cannot be read: training replaces them, measuring leaves them out."""

from __future__ import annotations

from typing import Any

from typing_extensions import Literal, get_args

from gluon_compress.validation import LONGEST_LINE, shortened

MOST_BROKEN = 0.5  # share of a data set that may be broken
Broken = Literal["replace", "leave out"]
BROKEN = get_args(Broken)


class BrokenImage(ValueError):
    """An image of a data set cannot be read; the message names the file."""


class ChangedFile(ValueError):
    """A file that holds many images is not the one that was opened."""


def refuse_broken(
    dataset: Any, most: float, *, broken: int | None = None, reason: str = ""
) -> None:
    """Refuse a data set of which too much cannot be read.

    Parameters
    ----------
    dataset
        ``skipped`` and ``broken`` are numbers of images: those that are not among its
        items, and items that turned out to be broken. Both may be missing.
    most : float
        Share of all images.
    broken : int, optional
        In place of the data set's own.
    reason : str
        What is wrong with one of them; default: the first of its ``problems``.

    Raises
    ------
    ValueError
        Naming one of the files, if the share is larger.
    """
    skipped = getattr(dataset, "skipped", 0)
    lost = skipped + (getattr(dataset, "broken", 0) if broken is None else broken)
    total = len(dataset) + skipped
    if lost > most * total:
        reason = shortened(reason or dataset.problems[0][1], LONGEST_LINE // 2)
        raise ValueError(
            f"{reason}; at least {lost} of {total} images cannot be used; allowed: a "
            f"share of {most:g} (most_broken)"
        )
