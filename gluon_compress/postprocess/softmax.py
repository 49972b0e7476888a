"""Turns class scores into the most probable classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Mapping, Sequence

import numpy as np
from typing_extensions import Literal

from gluon_compress.validation import Count, Settings, wrong

OUTPUT = "class_scores"


class SoftmaxPostprocessSettings(Settings):
    """Settings of the softmax postprocess.

    Parameters
    ----------
    kind : str
        ``softmax``.
    top_k : int
        Number of classes returned, at most all.
    """

    kind: Literal["softmax"] = "softmax"
    top_k: Count = 5


@dataclass(frozen=True)
class SoftmaxPostprocess:
    """Returns the ``top_k`` most probable classes of each image."""

    top_k: int = 5

    kind: ClassVar[str] = "softmax"
    Settings: ClassVar[type] = SoftmaxPostprocessSettings
    finds_boxes: ClassVar[bool] = False
    arrays: ClassVar[tuple] = ()

    @classmethod
    def from_state(
        cls, settings: SoftmaxPostprocessSettings, arrays: Mapping[str, np.ndarray]
    ) -> SoftmaxPostprocess:
        """Return the postprocess that ``state`` described."""
        return cls(settings.top_k)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return its section of the manifest; it needs no arrays."""
        return SoftmaxPostprocessSettings(top_k=self.top_k).to_json(), {}

    def check(self, shapes: Mapping[str, Sequence[int]], classes: Sequence) -> None:
        """Raise ValueError unless there is one score for each class."""
        if OUTPUT not in shapes:
            raise wrong("outputs", list(shapes), f"one of them {OUTPUT!r}")
        width = shapes[OUTPUT][-1]
        if len(classes) != width:
            allowed = f"{width} names, for outputs[0].shape ends in {width}"
            raise wrong("classes", list(classes), allowed)

    def decode(
        self, outputs: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return class ids ``(B, K)`` and probabilities ``(B, K)``, best first.

        An image whose scores give no finite probabilities has ids of -1.
        """
        with np.errstate(invalid="ignore"):  # not numbers, infinite
            shares = softmax(outputs[OUTPUT])
        ids = np.argsort(-shares, axis=1, kind="stable")[:, : self.top_k]
        best = np.take_along_axis(shares, ids, axis=1)
        valid = np.isfinite(shares).all(axis=1, keepdims=True)
        return np.where(valid, ids, -1), np.where(valid, best, np.float32(-1))

    @staticmethod
    def in_images(
        results: Sequence[np.ndarray], placements: Sequence = ()
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each image class ids ``(K,)`` and probabilities ``(K,)``."""
        return [(ids[ids >= 0], shares[ids >= 0]) for ids, shares in zip(*results)]

    def compare(
        self,
        outputs: Mapping[str, np.ndarray],
        results: Sequence[np.ndarray],
        expected: Sequence[np.ndarray],
        *,
        tolerance: float,
        side: int = 0,
    ) -> tuple[float, str]:
        """Return the largest difference of probabilities, and a wrong class if any.

        A class that differs from the net's is wrong only if the net's scores of the two
        differ by more than twice the tolerance.
        """
        scores = np.asarray(outputs[OUTPUT], np.float64)
        allowed = tolerance * float(np.abs(scores).max())
        shares = np.take_along_axis(softmax(scores), results[0], axis=1)
        worst = float(np.abs(shares - results[1]).max())
        top_classes = zip(results[0][:, 0], expected[0][:, 0])
        for i, (actual, wanted) in enumerate(top_classes):
            if scores[i, wanted] - scores[i, actual] > 2 * allowed:
                return (
                    worst,
                    f"gives class {actual} in image {i}; the net gives {wanted}",
                )
        return worst, ""


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of scores ``(B, C)``."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)
