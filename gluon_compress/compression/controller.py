"""Compresses a net that a training loop of the user's own trains.

``compress`` applies rows of ``ALGORITHMS`` to a net and returns a controller, which the
loop asks for a term of the loss and tells about every step::

    net, controller = gc.compress(net, config, batches)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})
    for images, labels in batches:
        with autograd.record():
            loss = loss_function(net(images), labels).mean() + controller.loss()
        loss.backward()
        trainer.step(1)
        controller.step()
    controller.export("edge")
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, Mapping, Sequence, Sized, Tuple

import mxnet as mx
from mxnet import autograd, gluon
from mxnet.gluon import HybridBlock
from typing_extensions import Annotated

from gluon_compress import models
from gluon_compress.compression.algorithm import Algorithm, LoopContext
from gluon_compress.compression.registry import (
    ALGORITHMS,
    check_order,
    row_settings,
)
from gluon_compress.deployment.plain_nets import export_formats
from gluon_compress.graph import Graph, input_shape, structure_of, trace
from gluon_compress.model_folder import export
from gluon_compress.storage.atomic import read_json
from gluon_compress.train.checkpoint import (
    check_resumable,
    read_checkpoint,
    write_checkpoint,
)
from gluon_compress.train.hooks import Hooks, Position, SeveralHooks
from gluon_compress.train.optimizer_state import (
    OptimizerState,
    check_optimizer_state,
    optimizer_state,
    set_optimizer_state,
)
from gluon_compress.validation import (
    CountOrZero,
    NonEmptyStr,
    Settings,
    Tagged,
    parse,
    shown,
    wrong,
)


class Compression(Settings):
    """What ``compress`` takes: the part of a recipe that compresses.

    Parameters
    ----------
    compression : tuple of rows
        Each names one of ``ALGORITHMS``; they are applied in this order.
    """

    compression: Tuple[Annotated[Any, Tagged("algorithm", row_settings)], ...]

    def check(self) -> None:
        """Check that there are rows, in an order that can work."""
        if not self.compression:
            raise self.error("compression", "a list of 1 or more")
        check_order(self.compression)


class Controller:
    """What ``compress`` returns beside the net.

    Parameters
    ----------
    net : HybridBlock
        The compressed net.
    hooks : Hooks
    notes : sequence of mapping
        What each row decided, JSON-able.
    rows : sequence of Settings
    shape : tuple of int
        Of the net's input, for one sample.
    steps_per_epoch, epochs : int
        Of the loop, for what depends on time.
    """

    def __init__(
        self,
        net: HybridBlock,
        hooks: Hooks,
        notes: Sequence[Mapping[str, Any]],
        rows: Sequence[Settings],
        *,
        shape: Any,
        steps_per_epoch: int,
        epochs: int,
    ) -> None:
        self._shape, self._rows = shape, tuple(rows)
        self.net, self.notes, self.steps = net, tuple(notes), 0
        self._hooks, self._epochs = hooks, epochs
        self._steps_per_epoch = steps_per_epoch
        net.register_forward_pre_hook(self._see)
        hooks.begin_epoch(self.position)

    @property
    def position(self) -> Position:
        """How far the loop has got."""
        return Position(self.steps, self.steps / self._steps_per_epoch, self._epochs)

    def loss(self) -> Any:
        """Return the term to add to the loss, an array of one element or 0."""
        term = self._hooks.loss()
        return 0.0 if term is None else term

    def step(self) -> None:
        """Do what is due after an update of the parameters."""
        self.steps += 1
        self._hooks.end_step(self.position)
        if self.steps % self._steps_per_epoch == 0:
            self._hooks.begin_epoch(self.position)

    def resume(self, steps: int) -> None:
        """Go on after a number of steps; the parameters are for the loop to load.

        Everything else that the algorithms know is in the parameters of the net.
        """
        if not isinstance(steps, int) or steps < 0:
            raise wrong("steps", steps, "a whole number from 0")
        self.steps = steps

    def save(
        self, path: str | os.PathLike, trainer: gluon.Trainer | None = None
    ) -> None:
        """Write a checkpoint: parameters, steps, rows, and the state of a trainer."""
        state = None if trainer is None else optimizer_state(trainer)
        write_checkpoint(path, self._parameters, self._identity, state)

    def load(
        self, path: str | os.PathLike, trainer: gluon.Trainer | None = None
    ) -> None:
        """Go on from a checkpoint that ``save`` wrote, in this process or another.

        Parameters
        ----------
        path : path
        trainer : gluon.Trainer, optional
            Gets the state that was saved; its parameters are those of ``net``.

        Raises
        ------
        ValueError
            If the file is damaged, or of another net or other rows: the line names the
            first key that differs. Nothing is changed then.
        """

        def accept(meta: dict, state: OptimizerState) -> None:
            self._check_identity(meta, path)
            if trainer is not None:
                check_resumable(Path(path), state)
                check_optimizer_state(trainer, state, path)

        meta, state = read_checkpoint(path, self._parameters, accept=accept)
        if trainer is not None:
            set_optimizer_state(trainer, state)
        self.resume(meta["steps"])

    @property
    def _parameters(self) -> list:
        return list(self.net.collect_params().values())

    @property
    def _identity(self) -> dict:
        rows = [row.to_json() for row in self._rows]
        structure = structure_of(self.net)
        return {"steps": self.steps, "compression": rows, "structure": structure}

    def _check_identity(self, meta: dict, path: Any) -> None:
        stored = parse(_Identity, meta, path)
        here = self._identity
        rows = stored.to_json()["compression"]
        difference = _difference("compression", rows, here["compression"])
        if difference is not None:
            key, before, now = difference
            raise wrong(
                f"{path}: {key}", before, f"{shown(now)}, as the net here has it"
            )
        if stored.structure != here["structure"]:
            raise wrong(
                f"{path}: structure",
                stored.structure,
                f"{here['structure']}: the same net, measured on the same batches",
            )

    def export(
        self,
        folder: str | os.PathLike,
        name: str = "model",
        *,
        formats: Sequence[str] = (),
        images: Any = None,
    ) -> dict:
        """Write the net, and the files of runtimes, each checked.

        Parameters
        ----------
        folder : path
            Gets ``model``, a folder as ``export`` writes it, and ``runtimes`` with the
            files of the formats.
        name : str
            Of the files.
        formats : sequence of str
            Rows of ``deployment.FORMATS``; of a net with quantisers for instance
            ``onnx-int8``, ``onnx-int4``, ``ncnn-int8``, ``packed``, ``int8``.
        images : ndarray, optional
            Inputs ``(N, ...)`` to compare the files with the net on; default: noise.

        Returns
        -------
        dict
            The manifest of the model, with what ``export_formats`` returns as
            ``formats``.
        """
        target = Path(folder) / "model"
        target.parent.mkdir(parents=True, exist_ok=True)
        net = self._hooks.finished(self.net)
        manifest = export(net, target, name, shape=self._shape)
        if not formats:
            return manifest
        runtimes = Path(folder) / "runtimes"
        made = export_formats(
            net, runtimes, name, formats, shape=self._shape, images=images
        )
        return {**manifest, "formats": made}

    def _see(self, block: Any, inputs: Sequence) -> None:
        if autograd.is_training() and isinstance(inputs[0], mx.nd.NDArray):
            self._hooks.begin_step(self.position)
            with autograd.pause():
                self._hooks.see(inputs[0])


class _Identity(Settings):
    """What a checkpoint says of the loop that wrote it."""

    steps: CountOrZero
    compression: Tuple[Dict[str, Any], ...]
    structure: NonEmptyStr


def _difference(key: str, stored: Any, here: Any) -> tuple[str, Any, Any] | None:
    if isinstance(stored, dict) and isinstance(here, dict):
        names = list(dict.fromkeys([*here, *stored]))
        pairs = [(f"{key}.{n}", stored.get(n), here.get(n)) for n in names]
    elif isinstance(stored, list) and isinstance(here, list):
        pairs = [(f"{key}[{i}]", a, b) for i, (a, b) in enumerate(zip(stored, here))]
        if len(stored) != len(here):
            pairs.append((f"{key}: the number of rows", len(stored), len(here)))
    else:
        return (key, stored, here) if stored != here else None
    found = (_difference(*pair) for pair in pairs)
    return next((row for row in found if row is not None), None)


def compress(
    net: HybridBlock,
    config: Any,
    batches: Iterable,
    *,
    shape: Any = None,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    seed: int = 0,
) -> tuple[HybridBlock, Controller]:
    """Return a net in compression, and the controller for the loop that trains it.

    Parameters
    ----------
    net : HybridBlock
        Trained; left as it is.
    config : mapping, list or path
        ``{"compression": [rows]}`` as in a recipe, the rows alone, or a JSON file.
        Schedules of training in it are not used: the loop is the caller's.
    batches : iterable
        Tuples of arrays whose first is the net's input, to measure on.
    shape : tuple, optional
        Of the input, unless the net states it; by default that of the first batch.
    epochs, steps_per_epoch : int
        Of the loop, for what depends on time; by default the length of ``batches``.
    seed : int
        Decides what is random.

    Returns
    -------
    (HybridBlock, Controller)

    Raises
    ------
    ValueError
        One line that names key and value of a setting that is not allowed.
    """
    rows = _rows(config)
    for key, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise wrong(key, value, "a whole number from 1")
    stored = _Stored(batches)
    context = _Loop(net, stored, shape, seed)
    makers, notes = [], []
    for i, row in enumerate(rows):
        drop = getattr(row, "max_drop", None)
        if drop is not None:
            allowed = "null in a loop of one's own, whose metric is not known here"
            raise wrong(f"compression[{i}].max_drop", drop, allowed)
        algorithm: Algorithm = ALGORITHMS[row.algorithm]
        attached = algorithm.attach(net, row, context)
        net = attached.net
        makers.append(attached.hooks)
        notes.append(attached.notes)
    steps = steps_per_epoch or (len(batches) if isinstance(batches, Sized) else 1)
    return net, Controller(
        net,
        SeveralHooks([hooks(net) for hooks in makers]),
        notes,
        rows,
        shape=context.shape,
        steps_per_epoch=steps,
        epochs=epochs,
    )


def _rows(config: Any) -> Sequence[Any]:
    source: Any = ""
    if isinstance(config, (str, os.PathLike)):
        source, config = config, read_json(Path(config))
    if isinstance(config, (list, tuple)):
        config = {"compression": list(config)}
    if isinstance(config, dict):
        config = {k: v for k, v in config.items() if k != "$schema"}
    return parse(Compression, config, source).compression


class _Stored:
    """The first batches of an iterable, read once and as late as possible."""

    def __init__(self, batches: Iterable) -> None:
        self._rest, self._read = iter(batches), []  # type: ignore[var-annotated]

    def first(self, count: int) -> Iterator:
        for i in range(count):
            if i == len(self._read):
                batch = next(self._rest, None)
                if batch is None:
                    return
                is_one = isinstance(batch, mx.nd.NDArray)
                self._read.append((batch,) if is_one else tuple(batch))
            yield self._read[i]


class _Loop(LoopContext):
    """What algorithms see of a loop of the user's own."""

    def __init__(
        self, net: HybridBlock, stored: _Stored, shape: Any, seed: int
    ) -> None:
        self.model, self.seed, self._stored = type(net).__name__, seed, stored
        if shape is None:
            first = next(stored.first(1), None)
            if first is None:
                raise ValueError("batches: there is none; allowed: at least one")
            shape = (1, *first[0].shape[1:])
        self.shape = input_shape(net, shape)

    def trace(self, net: HybridBlock) -> Graph:
        return trace(net, self.shape)

    def with_classes(self, net: HybridBlock, classes: int) -> HybridBlock:
        names = [f"class{i}" for i in range(classes)]
        return models.family_of(net).with_classes(net, names, seed=self.seed)

    def batches(self, net: HybridBlock, count: int) -> Any:
        return islice(self._stored.first(count), count)
