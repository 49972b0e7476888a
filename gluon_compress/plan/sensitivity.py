"""Accuracy against the width of each group: measured data that a policy can follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np

from gluon_compress.graph import ChannelGroup
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.validation import shown

FORMAT = 1


@dataclass(frozen=True)
class Sensitivity:
    """The accuracy of a net with one group masked at a time.

    ``prune.sensitivity`` measures it; the policy ``BySensitivity`` follows it.

    Parameters
    ----------
    full : float
        Accuracy of the whole net, 0 or more.
    widths : mapping
        Group to its number of indices.
    curves : mapping
        Group to pairs (indices kept, accuracy), the widest first.
    criterion : str
        The criterion that chose the indices that were kept.
    fingerprint : str
        Hash of the net, its values, the criterion and the widths that were asked for.

    Raises
    ------
    ValueError
        If a curve is empty or not in falling order, it keeps more indices than the
        group has, or an accuracy is not a number from 0.
    """

    full: float
    widths: Mapping[str, int]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    criterion: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        full = check_accuracy(self.full, "the whole net")
        curves = {g: _points(g, p, self.widths) for g, p in self.curves.items()}
        object.__setattr__(self, "full", full)
        object.__setattr__(self, "widths", dict(self.widths))
        object.__setattr__(self, "curves", curves)

    def lost(self, group: str, kept: Sequence[float]) -> np.ndarray:
        """Return the accuracy that is lost when a group keeps some of its indices.

        More channels are never worse: a measured gain is noise, so a point counts as
        no more accurate than any wider one. Between points the curve is linear. Below
        the narrowest it falls to an accuracy of 0 at no channels, so that what was not
        measured is never cheap.

        Parameters
        ----------
        group : str
        kept : sequence of float
            Numbers of indices, from 0 to the width of the group.

        Returns
        -------
        ndarray
            As many losses, 0 or more.
        """
        points = [(self.widths[group], self.full), *self.curves[group], (0, 0.0)]
        counts, accuracies = zip(*points)
        lost = self.full - np.minimum.accumulate(np.array(accuracies, float))
        return np.interp(kept, counts[::-1], lost[::-1])

    def check(self, groups: Sequence[ChannelGroup]) -> None:
        """Refuse groups that were not measured.

        Raises
        ------
        ValueError
            If a group has no curve, or another width.
        """
        for group in groups:
            if group.name not in self.curves:
                raise ValueError(
                    f"the sensitivity has no curve of group {group.name!r}"
                )
            if self.widths[group.name] != group.width:
                raise ValueError(
                    f"the sensitivity is of another net: group {group.name!r} has "
                    f"width {group.width}, there {self.widths[group.name]}"
                )

    def save(self, path: Any) -> None:
        """Write JSON atomically; floats are read back exactly."""
        curves = {
            group: {"width": self.widths[group], "points": [list(p) for p in points]}
            for group, points in self.curves.items()
        }
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "criterion": self.criterion,
            "full": self.full,
            "curves": curves,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Any) -> Sensitivity:
        """Read what ``save`` wrote.

        Raises
        ------
        ValueError
            If the file is missing or holds no sensitivity.
        """
        stored = read_json(path)
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ValueError(f"{path}: no sensitivity of format {FORMAT}")
        try:
            curves = stored["curves"]
            return cls(
                stored["full"],
                {group: row["width"] for group, row in curves.items()},
                {group: row["points"] for group, row in curves.items()},
                str(stored["criterion"]),
                str(stored["fingerprint"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: no sensitivity: {shown(error)}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def check_accuracy(value: Any, subject: str) -> float:
    """Return an accuracy as a float.

    Raises
    ------
    ValueError
        If it is not a finite number from 0.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"the accuracy of {subject} is {shown(value)}; allowed: a number from 0"
        )
    return float(value)


def _points(group: str, points: Any, widths: Mapping[str, int]) -> tuple:
    width = widths.get(group)
    counts = [count for count, _ in points]
    are_ints = all(
        isinstance(n, int) and not isinstance(n, bool) for n in (width, *counts)
    )
    if not counts or not are_ints or sorted({*counts}, reverse=True) != counts:
        raise ValueError(
            f"the curve of group {shown(group)} keeps {shown(counts)}; allowed: "
            "falling numbers of indices"
        )
    if counts[0] > width or counts[-1] < 1:
        raise ValueError(
            f"the curve of group {shown(group)} keeps {shown(counts)}; allowed: 1 to "
            f"{width}"
        )
    subject = f"group {shown(group)}"
    return tuple((n, check_accuracy(value, subject)) for n, value in points)
