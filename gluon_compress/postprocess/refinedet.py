"""Decodes a refinement detector's outputs: anchors are moved, then read like SSD's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import Literal

from gluon_compress.boxes import decode_deltas
from gluon_compress.postprocess.ssd import SSDPostprocess, SSDPostprocessSettings
from gluon_compress.validation import ShareOrZero

# What Gluon nets give, in the order of the joined output.
STEPS = ("objectness", "refinements", "class_scores", "box_deltas")


class RefineDetPostprocessSettings(SSDPostprocessSettings):
    """Constants of decoding and of NMS.

    Parameters
    ----------
    kind : str
        ``refinedet``.
    least_objectness : float
        Anchors whose probability to hold an object is up to this are dropped (the
        "negative anchor filtering" of Zhang et al. 2018, section 3.2).
    """

    kind: Literal["refinedet"] = "refinedet"  # type: ignore[assignment]
    least_objectness: ShareOrZero = 0.01


@dataclass(frozen=True)
class RefineDetPostprocess(SSDPostprocess):
    """Moves anchors by the first step, and decodes the second step from there.

    Parameters
    ----------
    anchors : ndarray
        Center boxes ``(A, 4)`` in pixels of the input, float32.
    settings : RefineDetPostprocessSettings
    """

    settings: RefineDetPostprocessSettings = RefineDetPostprocessSettings()

    kind: ClassVar[str] = "refinedet"
    Settings: ClassVar[type] = RefineDetPostprocessSettings
    separate: ClassVar[tuple] = STEPS
    ahead: ClassVar[int] = 6  # two scores and four deltas of the first step

    def anchored(
        self, prediction: np.ndarray, *, slack: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the second step's part of anchors that may hold an object.

        ``center_boxes`` are the anchors as the first step moves them.
        """
        chosen = self._margins(prediction) > -slack
        rows = prediction[chosen]
        moved = decode_deltas(rows[:, 2:6], self.anchors[chosen], self.settings.stds)
        return rows[:, self.ahead :], moved

    def doubtful(self, prediction: np.ndarray, *, slack: float) -> np.ndarray:
        """Return which of the anchors are about at the limit of objectness."""
        margins = self._margins(prediction)
        return (margins <= slack)[margins > -slack]

    def _margins(self, prediction: np.ndarray) -> np.ndarray:
        """Return how far each objectness is above the limit, in logits, ``(A,)``."""
        least = self.settings.least_objectness
        with np.errstate(divide="ignore"):  # at 0 all anchors pass, at 1 none
            limit = np.float32(np.log(least) - np.log1p(-least))
        return prediction[:, 1] - prediction[:, 0] - limit
