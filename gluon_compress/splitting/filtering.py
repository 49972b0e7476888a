"""The neural filter: what an image that shows nothing of interest is dropped by.

It is Ext4ResNet (Matsubara and Levorato 2020): a small classifier on a map of the first
half of a net, which tells images with a valid target from the others. An image that it
drops is not sent. It computes

    average to 64 x 64 cells, 4x4 convolution of 64 channels with stride 2, 3x3 of 32
    with stride 2, 2x2 of 16, average to 8 x 8 cells, dense layer of 2.

Decided here, since it is not known: BatchNorm and ReLU follow each convolution. And
averages to a fixed number of cells, which the exchange formats lack, are written as two
1x1 convolutions, along the rows and along the columns: the sums are the same.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import SymbolBlock

from gluon_compress.data import Batches
from gluon_compress.deployment.folding import fused
from gluon_compress.graph import give_value
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.models.family import family_of
from gluon_compress.models.initialize import initializer
from gluon_compress.splitting.cuts import INPUT, CutPoint, CutPoints, split
from gluon_compress.splitting.halves import probabilities
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import finite, read_arrays, write_arrays
from gluon_compress.train import Options, fit
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import (
    ClassNames,
    Count,
    NonEmptyStr,
    Settings,
    Share,
    ShareOrZero,
    listed,
    parse,
    wrong,
)

NAME = "filter"
POOLED, LAST_POOLED = 64, 8  # cells a side
SCHEDULE = Schedule(
    epochs=30,
    batch_size=2,
    learning_rate=1e-3,
    mode="step",
    milestones=(15, 25),
    warmup_epochs=0,
    weight_decay=1e-4,
    validate_every=0,
)
DIGITS = 6  # of a threshold


class FilterSettings(Settings):
    """How a neural filter is trained.

    Parameters
    ----------
    on : str or None
        The cut point whose map it reads; None: the bottleneck's ``after``.
    classes : tuple of str or None
        Classes of which an image has to show one to be sent; None: any.
    recall : float
        Share of the images with a target that have to be sent, on the validation
        images.
    train : Schedule
        The published one by default.
    """

    on: Optional[NonEmptyStr] = None
    classes: Optional[ClassNames] = None
    recall: Share = 0.9
    train: Schedule = SCHEDULE


class _Facts(Settings):
    """What the file of a filter states beside its arrays."""

    on: NonEmptyStr
    shape: Tuple[Count, Count, Count]
    threshold: ShareOrZero
    recall: Optional[ShareOrZero] = None
    precision: Optional[ShareOrZero] = None
    sent: Optional[ShareOrZero] = None


@dataclass(frozen=True)
class NeuralFilter:
    """A trained filter.

    Parameters
    ----------
    on : str
        Name of the cut point whose map it reads.
    shape : tuple of int
        Of that map, ``(channels, height, width)``.
    params : mapping
    threshold : float
        Images whose probability of a target is below it are not sent.
    recall, precision, sent : float, optional
        On the validation images: the share of those with a target that are sent, of
        those sent that have a target, and of all that are sent.
    """

    on: str
    shape: Tuple[int, int, int]
    params: Mapping[str, mx.nd.NDArray]
    threshold: float
    recall: Optional[float] = None
    precision: Optional[float] = None
    sent: Optional[float] = None

    def facts(self) -> Dict[str, Any]:
        """Return what was measured, JSON-able."""
        names = ("on", "threshold", "recall", "precision", "sent")
        return {name: getattr(self, name) for name in names}

    def statement(self) -> Dict[str, Any]:
        """Return what the manifest of a head states of the filter."""
        facts = self.facts()
        return {name: facts[name] for name in ("threshold", "recall", "precision")}

    def save(self, path: str | os.PathLike) -> None:
        """Write the filter to one file."""
        facts = {**self.facts(), "shape": list(self.shape)}
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        arrays = {name: value.asnumpy() for name, value in self.params.items()}
        write_atomically(Path(path), write_arrays({"facts": text, **arrays}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> NeuralFilter:
        """Read a filter that ``save`` wrote.

        Raises
        ------
        ValueError
            One line, if the file is missing, damaged, or not of a filter.
        """
        arrays = read_arrays(Path(path))
        finite(arrays, path)
        text = arrays.pop("facts", None)
        if text is None or text.dtype != np.uint8 or text.ndim != 1:
            raise ValueError(f"{path}: is not the file of a neural filter")
        try:
            content = json.loads(text.tobytes().decode())
        except ValueError:
            raise ValueError(f"{path}: facts are not JSON") from None
        facts = parse(_Facts, content, path)
        expected = shapes_of_filter(facts.shape)
        stated = {name: array.shape for name, array in arrays.items()}
        if stated != expected:
            raise wrong(f"{path}: arrays", sorted(stated), "those of a neural filter")
        params = {name: mx.nd.array(array) for name, array in arrays.items()}
        return cls(params=params, **dict(facts))


def filter_symbol(x: mx.sym.Symbol) -> mx.sym.Symbol:
    """Return the scores ``(B, 2)`` of "none" and "some" for a map."""
    x = _averaged(x, POOLED, f"{NAME}_pool0")
    for i, (width, kernel, stride) in enumerate(((64, 4, 2), (32, 3, 2), (16, 2, 1))):
        x = mx.sym.Convolution(
            x,
            num_filter=width,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            no_bias=True,
            name=f"{NAME}_conv{i}",
        )
        x = mx.sym.BatchNorm(x, fix_gamma=False, eps=1e-5, name=f"{NAME}_bn{i}")
        x = mx.sym.Activation(x, act_type="relu", name=f"{NAME}_relu{i}")
    x = _averaged(x, LAST_POOLED, f"{NAME}_pool1")
    x = mx.sym.Flatten(x, name=f"{NAME}_flat")
    return mx.sym.FullyConnected(x, num_hidden=2, name=f"{NAME}_dense")


def _averaged(x: mx.sym.Symbol, cells: int, name: str) -> mx.sym.Symbol:
    """Return a map averaged to a number of cells a side, as adaptive pooling does."""
    for axis, how in (("rows", (0, 2, 1, 3)), ("columns", (0, 3, 2, 1))):
        x = mx.sym.transpose(x, how, name=f"{name}_{axis}_first")
        x = mx.sym.Convolution(
            x, num_filter=cells, kernel=(1, 1), no_bias=True, name=f"{name}_{axis}"
        )
        x = mx.sym.transpose(x, how, name=f"{name}_{axis}_back")
    return x


def averaging(length: int, cells: int) -> np.ndarray:
    """Return the matrix ``(cells, length)`` of an average to a number of cells.

    Cell ``i`` is the mean from ``floor(i n / m)`` to ``ceil((i + 1) n / m)``.
    """
    matrix = np.zeros((cells, length), np.float32)
    for i in range(cells):
        start, stop = i * length // cells, -(-(i + 1) * length // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def shapes_of_filter(shape: Sequence[int]) -> Dict[str, Tuple[int, ...]]:
    """Return the shapes of the parameters of a filter, by name."""
    symbol = filter_symbol(mx.sym.var(INPUT))
    shapes, _ = infer_shapes(symbol, {INPUT: (1, *shape)})
    del shapes[INPUT]
    return shapes


def _is_fixed(name: str) -> bool:
    return name.startswith((f"{NAME}_pool0", f"{NAME}_pool1"))


def new_filter(shape: Sequence[int], *, seed: int = 0) -> SymbolBlock:
    """Return an untrained filter for a map; its averages are fixed."""
    symbol = filter_symbol(mx.sym.var(INPUT))
    block = SymbolBlock(symbol, mx.sym.var(INPUT, dtype="float32"))
    mx.random.seed(seed)
    for name, size in shapes_of_filter(shape).items():
        parameter = block.collect_params()[name]
        parameter.shape = size
        if _is_fixed(name):
            matrix = averaging(size[1], size[0]).reshape(size)
            give_value(parameter, mx.nd.array(matrix))
            parameter.grad_req = "null"
        else:
            parameter.initialize(default_init=initializer(name, size))
    return block


# Training.


class HasTarget:
    """Turns the boxes of images into 1 for an image with a valid target, else 0.

    Parameters
    ----------
    ids : sequence of int, optional
        Classes that count; None: all. Difficult objects do not count.
    """

    def __init__(self, ids: Sequence[int] | None = None) -> None:
        self.ids = None if ids is None else set(ids)

    def __call__(self, labels: Sequence[np.ndarray]) -> tuple[np.ndarray]:
        """Return one float32 array ``(B,)``."""
        return (np.array([self.one(label) for label in labels], np.float32),)

    def one(self, label: np.ndarray) -> bool:
        """Return whether an image has a target."""
        rows = np.atleast_2d(label) if np.size(label) else np.zeros((0, 6))
        return any(
            (self.ids is None or int(row[4]) in self.ids)
            and not (len(row) > 5 and row[5] > 0)
            for row in rows
        )


def targets_of(classes: Sequence[str], wanted: Sequence[str] | None) -> HasTarget:
    """Return what tells images with a target of some classes.

    Raises
    ------
    ValueError
        For a class that is none of those of the data.
    """
    for name in wanted or ():
        if name not in classes:
            raise wrong("filter.classes", name, listed(classes))
    numbers = [i for i, name in enumerate(classes) if wanted is None or name in wanted]
    return HasTarget(None if wanted is None else numbers)


def fit_filter(
    net: Any,
    train: Any,
    validation: Any,
    settings: FilterSettings,
    folder: str | os.PathLike,
    *,
    after: str | None = None,
    options: Options | None = None,
) -> NeuralFilter:
    """Train a filter on a map of a net, and choose its threshold.

    Parameters
    ----------
    net : HybridBlock
        A detector; not changed. Only what leads to the map is run.
    train, validation
        Data sets of detection: ``len``, ``[i]`` -> (image, boxes), ``classes``.
    settings : FilterSettings
    folder : path
        Of log and checkpoints; an interrupted training there is resumed.
    after : str, optional
        The cut point to read where ``settings.on`` is None.
    options : Options, optional

    Raises
    ------
    ValueError
        If the map is no cut point, or there are no images with, or none without a
        target.
    """
    options = options or Options()
    point = filter_point(net, settings, after)
    kind = targets_of(train.classes, settings.classes)
    for name, dataset in (("training", train), ("validation", validation)):
        _check_both_kinds(name, dataset, kind)
    preprocess = family_of(net).preprocess(net)
    stem = split(net, point.node).head  # type: ignore[union-attr]
    runs = fused(stem, options.ctx, shape=preprocess.shape)
    block = new_filter(point.shape, seed=options.seed)
    block.hybridize(static_alloc=True, static_shape=True)
    block.collect_params().reset_ctx(list(options.ctx))
    batches = Batches(
        train,
        preprocess.sample,
        settings.train.batch_size,
        seed=options.seed,
        last="fill",
        targets=kind,
        normalized=preprocess.inputs,
    )

    def step_loss(net: Callable, batch: Sequence) -> tuple[Any, dict]:
        with autograd.pause():
            maps = runs(batch[0])
        logs = mx.nd.log_softmax(net(maps), axis=1)
        return -mx.nd.pick(logs, batch[1], axis=1).mean(), {}

    fit(block, batches, step_loss, settings.train, folder, options=options)
    rows = Batches(
        validation,
        preprocess.sample,
        8,
        shuffle=False,
        targets=kind,
        normalized=preprocess.inputs,
    )
    shares, truth = [], []
    for images, targets in rows.epoch(0):
        scores = block(runs(images.as_in_context(options.ctx[0])))
        shares.append(probabilities(scores.asnumpy()))
        truth.append(targets.asnumpy())
    chosen = choose_threshold(
        np.concatenate(shares), np.concatenate(truth) > 0, settings.recall
    )
    params = {n: p.data().copyto(mx.cpu()) for n, p in block.collect_params().items()}
    shape = (point.shape[0], point.shape[1], point.shape[2])
    return NeuralFilter(point.name, shape, params, **chosen)


def check_filter(net: Any, settings: FilterSettings, after: str | None) -> None:
    """Refuse settings of a filter that do not fit a net.

    Raises
    ------
    ValueError
        One line that names the setting.
    """
    family = family_of(net)
    if family.task != "detection":
        raise wrong("filter", "set", f"null for nets of kind {family.kind!r}")
    targets_of(family.classes_of(net), settings.classes)
    filter_point(net, settings, after)


def filter_point(net: Any, settings: FilterSettings, after: str | None) -> CutPoint:
    """Return the cut point whose map a filter reads.

    Raises
    ------
    ValueError
        If it is none, or has no height and width.
    """
    points = split(net)
    assert isinstance(points, CutPoints)
    name = settings.on or after
    if name is None:
        raise wrong("filter.on", name, "the name of a cut point")
    point = points.at(name)
    if len(point.shape) != 3:
        raise wrong("filter.on", name, "a map (channels, height, width)")
    return point


def _check_both_kinds(name: str, dataset: Any, kind: HasTarget) -> None:
    found = {kind.one(dataset.label(i)) for i in range(len(dataset))}
    if found != {True, False}:
        which = "with" if found == {False} else "without"
        raise ValueError(
            f"no {name} image is {which} a target; allowed: images of both kinds, to "
            "tell them apart (filter.classes names what counts)"
        )


def choose_threshold(
    shares: np.ndarray, truth: np.ndarray, recall: float
) -> Dict[str, float]:
    """Return the highest threshold with a recall, and what it does.

    Parameters
    ----------
    shares : ndarray
        Probabilities of a target, ``(N,)``.
    truth : ndarray
        Whether there is one.
    recall : float
        Share of the images with a target that have to be sent.

    Returns
    -------
    dict
        ``threshold``, and measured with it ``recall``, ``precision`` and ``sent``, the
        share of images that are sent.
    """
    positive = np.sort(np.asarray(shares, np.float64)[truth])[::-1]
    needed = max(math.ceil(recall * len(positive) - 1e-9), 1)
    # Rounded down, so that another runtime's rounding drops none of them.
    threshold = math.floor(positive[needed - 1] * 10**DIGITS) / 10**DIGITS
    kept = np.asarray(shares, np.float64) >= threshold
    return {
        "threshold": threshold,
        "recall": float(kept[truth].mean()),
        "precision": float(truth[kept].mean()),
        "sent": float(kept.mean()),
    }
