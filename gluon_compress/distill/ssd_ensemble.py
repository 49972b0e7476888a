"""Several SSDs as one teacher."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Sequence

from mxnet import nd

from gluon_compress.distill.registry import Array
from gluon_compress.distill.ssd import DELTAS, SCORES

TINY = 1e-12  # keeps logarithms and quotients finite


def ssd_ensemble(teachers: Sequence[Callable]) -> Callable:
    """Return a teacher that says what several say together.

    Hinton et al. 2015, section 2: class probabilities are averaged. Box deltas are
    averaged with the probability that each teacher gives the foreground, since deltas
    mean nothing where a teacher sees the background.

    Parameters
    ----------
    teachers : sequence of callable
        Images to outputs by name, ``class_scores`` ``(B, A, C + 1)`` and ``box_deltas``
        ``(B, A, 4)`` among them; all have the same classes and anchors.

    Returns
    -------
    callable
        Images to these two outputs. The softmax of the scores is the mean of the
        teachers' softmaxes.
    """

    def together(images: Any) -> Dict[str, Array]:
        return averaged([teacher(images) for teacher in teachers])

    return together


def averaged(outputs: Sequence[Mapping[str, Array]]) -> Dict[str, Array]:
    """Return the outputs of several teachers as those of one; see ``ssd_ensemble``."""
    chances = [nd.softmax(each[SCORES], axis=-1) for each in outputs]
    mean = sum(chances) / len(chances)
    weights = [c.slice_axis(axis=-1, begin=1, end=None) for c in chances]
    weights = [w.sum(axis=-1, keepdims=True) + TINY for w in weights]
    moved = [nd.broadcast_mul(w, each[DELTAS]) for w, each in zip(weights, outputs)]
    deltas = nd.broadcast_div(sum(moved), sum(weights))
    return {SCORES: nd.log(nd.maximum(mean, TINY)), DELTAS: deltas}
