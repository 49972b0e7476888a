"""The training loop, with checkpoints and exact resume.

MXNet's random numbers depend only on (seed, step), so a run that was killed and resumed
ends with the same parameters as one that was not. ``fit`` knows nothing about detectors
or pruning: it takes any net and any step loss.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
from mxnet import autograd, gluon
from tqdm import tqdm

from gluon_compress.stopping import Deferred, deferred, stop
from gluon_compress.storage.locks import sole_writer
from gluon_compress.train.checkpoint import read_checkpoint
from gluon_compress.train.replicas import part_of, share_values
from gluon_compress.train.run import BEST, Options, Progress, Run, stored_progress
from gluon_compress.train.schedule import Schedule, learning_rate

LOG_SECONDS = 10.0  # between two prints where the output is no terminal


def fit(
    net: gluon.HybridBlock,
    batches,
    step_loss: Callable,
    schedule: Schedule,
    folder: str | os.PathLike,
    *,
    validate: Callable[[], Mapping[str, float]] | None = None,
    callbacks: Sequence[Callable] = (),
    step_callbacks: Sequence[Callable] = (),
    start_callbacks: Sequence[Callable] = (),
    identity: Mapping[str, Any] | None = None,
    options: Options | None = None,
) -> Progress:
    """Train ``net``; write ``log.jsonl``, ``last.ckpt`` and ``best.ckpt``.

    With ``schedule.ema``, validations, ``best.ckpt`` and the net in the end have the
    moving averages of the parameters; ``last.ckpt`` has both.

    Parameters
    ----------
    net : HybridBlock
        Initialised; trained in place.
    batches
        ``len(batches)`` batches an epoch; ``batches.epoch(number, start)`` yields
        tuples of arrays whose first axis is the sample.
    step_loss : callable
        ``step_loss(net, batch) -> (loss, {part: value})``, called under
        ``autograd.record``; loss and parts are arrays of one element. Random numbers
        must come from MXNet's operators.
    schedule : Schedule
        A resumed run needs the schedule, seed and number of batches that it was
        started with.
    folder : path
        Created if missing. Resuming a finished run returns at once.
    validate : callable, optional
        Returns named figures, higher being better; the first decides ``best.ckpt``.
        Runs every ``schedule.validate_every`` epochs and after the last one.
    callbacks : sequence of callables
        Called as ``callback(net, progress)`` before the first batch of each epoch.
        To keep resuming exact, they may change the net's parameters only, depending
        only on these, the progress and MXNet's random numbers. They may set
        ``progress.best`` to None to discard the best validation so far and
        ``best.ckpt``.
    step_callbacks : sequence of callables
        Called as ``callback(net, progress)`` after each update; ``progress.step``
        counts them. The same rules apply, but they may not reset ``progress.best``.
    start_callbacks : sequence of callables
        Called as ``callback(net, progress)`` before each step, to tell what the loss
        depends on how far the run has got. They may not change parameters.
    identity : mapping, optional
        JSON values by name that say what is trained, such as the structure of the net:
        a run is resumed only if they are the same.
    options : Options, optional

    Returns
    -------
    Progress
        The final state.

    Raises
    ------
    Diverged
        If the loss, a gradient or a parameter is not finite. The last good checkpoint
        stays.
    KeyboardInterrupt, SystemExit
        On Ctrl-C, or on SIGTERM and SIGHUP, after the step and a checkpoint. The status
        is 128 plus the signal's number.
    ValueError
        If there is no batch or an epoch ends early, the net is not initialised, a
        checkpoint does not fit, or the folder contains another run or is written by
        another process.
    """
    options = options or Options()
    if len(batches) < 1:
        raise ValueError("there is no batch to train on: the data set is empty")
    _check_initialised(net)
    ranks = options.ranks
    with ranks.telling(), sole_writer(folder) if ranks.leads else nullcontext():
        run = Run(net, schedule, Path(folder), options, identity or {})
        run.open(len(batches))
        calls = _Callbacks(callbacks, start_callbacks, step_callbacks)
        return _train(run, part_of(batches, ranks), step_loss, validate, calls)


@dataclass(frozen=True)
class _Callbacks:
    """What is called as ``callback(net, progress)``."""

    before_epoch: Sequence[Callable]
    before_step: Sequence[Callable]
    after_step: Sequence[Callable]


def _train(
    run: Run,
    batches,
    step_loss: Callable,
    validate: Callable | None,
    callbacks: _Callbacks,
) -> Progress:
    net, schedule = run.net, run.schedule
    with _bar(run, len(batches)) as bar:
        while run.progress.epoch < schedule.epochs:
            if run.progress.batch == 0:
                _seed(run)  # a callback may draw random numbers
                for callback in callbacks.before_epoch:
                    callback(net, run.progress)
                run.forget_best()
            with deferred() as signal:
                _epoch(run, batches, step_loss, callbacks, signal, bar)
            if validate is not None and _is_due(run.progress.epoch, schedule):
                with run.averaged():
                    if run.ranks.leads:
                        run.record_validation(dict(validate()))
            run.save()
    run.finish()
    return run.progress


def _bar(run: Run, size: int) -> tqdm:
    """Return a progress bar over all epochs, which seldom prints to a log file."""
    return tqdm(
        total=run.schedule.epochs * size,
        initial=run.progress.epoch * size + run.progress.batch,
        unit="batch",
        disable=not (run.options.progress and run.ranks.leads),
        mininterval=0.5 if sys.stderr.isatty() else LOG_SECONDS,
    )


def load_best(
    net: gluon.HybridBlock,
    folder: str | os.PathLike,
    *,
    options: Options | None = None,
) -> Progress:
    """Load the parameters of the best validation into a net.

    Parameters
    ----------
    net : HybridBlock
        The trained net, or one built in the same way.
    folder : path
        The folder given to ``fit``.
    options : Options, optional
        Those given to ``fit``; of several ranks, the first reads the file for all.

    Returns
    -------
    Progress
        The progress of the run then.

    Raises
    ------
    ValueError
        If there was no validation, or the checkpoint is damaged or of another net.
    """
    _check_initialised(net)
    ranks = (options or Options()).ranks
    parameters = list(net.collect_params().values())
    path = Path(folder) / BEST

    def read() -> dict:
        meta, _ = read_checkpoint(
            path, parameters, accept=lambda meta, _: stored_progress(meta, path)
        )
        return meta

    with ranks.telling():
        meta = ranks.from_first("best", read)
        share_values(parameters, ranks)
    return stored_progress(meta, path)


def _check_initialised(net) -> None:
    for parameter in net.collect_params().values():
        try:
            parameter.list_data()
        except RuntimeError:  # includes MXNet's own error
            raise ValueError(
                f"parameter {parameter.name!r} has no value yet: initialise the net, "
                "and call it once if shapes are still unknown"
            ) from None


def _is_due(epochs_done: int, schedule: Schedule) -> bool:
    every = schedule.validate_every
    is_last = epochs_done == schedule.epochs
    return is_last or (every > 0 and epochs_done % every == 0)


def _epoch(
    run: Run,
    batches,
    step_loss: Callable,
    callbacks: _Callbacks,
    signal: Deferred,
    bar: tqdm,
) -> None:
    progress, size = run.progress, len(batches)
    epoch = f"epoch {progress.epoch + 1}/{run.schedule.epochs}"
    bar.set_description(epoch, refresh=False)
    rest = batches.epoch(progress.epoch, progress.batch)
    for batch in islice(rest, size - progress.batch):
        position = progress.epoch + progress.batch / size
        for callback in callbacks.before_step:
            callback(run.net, progress)
        record, asked = _step(run, batch, step_loss, position, signal.number)
        if run.ranks.size > 1:
            _seed(run)  # what callbacks draw has to be alike on all ranks
        for callback in callbacks.after_step:
            callback(run.net, progress)
        run.average()
        parts = {k: f"{v:.3f}" for k, v in record["parts"].items()}
        speed = f"{record['images_per_second']:.1f}"
        postfix = {"loss": f"{record['loss']:.3f}", **parts, "img/s": speed}
        bar.set_postfix(postfix, refresh=False)
        bar.update()
        progress.batch += 1
        if run.ranks.size == 1:
            asked = signal.number
        if asked is not None:  # all ranks know it, and stop after the same step
            stop(asked, run.save_for_resume())
        if progress.batch < size:
            run.save_if_old()
    if progress.batch < size:
        done = f"{progress.batch} of {size} batches"
        raise ValueError(f"epoch {progress.epoch} ended after {done}")
    run.check_parameters()
    if run.ranks.size > 1:
        signal.number = run.replicas.any_asked(signal.number)
        signal.stop_if_asked(run.save_for_resume)
    progress.epoch, progress.batch = progress.epoch + 1, 0


def _step(
    run: Run, batch: Sequence, step_loss: Callable, epoch: float, asked: int | None
) -> tuple[dict, int | None]:
    """Do a step; return its record, and the signal that asks any rank to stop."""
    rate = learning_rate(run.schedule, epoch)
    run.note_position(rate)
    _seed(run, run.ranks.rank)
    shards = _shard(batch, run.options.ctx)
    with autograd.record():
        losses = [step_loss(run.net, shard) for shard in shards]
    autograd.backward([loss for loss, _ in losses])
    run.replicas.add_gradients()
    names, values = _mean([{"loss": loss, **parts} for loss, parts in losses])
    values, asked = run.replicas.settle(values, asked)
    loss, *rest = (float(value) for value in values)
    run.check("loss", loss)
    figures = {"loss": loss, "parts": dict(zip(names[1:], rest))}
    clip_norm, count = run.schedule.clip_norm, run.replicas.count
    if clip_norm is not None:
        figures["gradient_norm"] = norm = _clip(run, clip_norm, count)
        run.check("gradient norm", norm)
    run.trainer.set_learning_rate(rate)
    run.trainer.update(count)
    return run.log_step(rate, figures, len(batch[0]) * run.ranks.size), asked


def _seed(run: Run, rank: int = 0) -> None:
    # Far apart, so that no two ranks draw the same at any step.
    number = run.options.seed * 1_000_003 + run.progress.step + rank * 715_827_883
    mx.random.seed(number % 2**31)


def _shard(batch: Sequence, ctx: Sequence) -> list[list]:
    """Split every array of a batch over the devices."""
    arrays = [a if isinstance(a, mx.nd.NDArray) else mx.nd.array(a) for a in batch]
    if len(ctx) == 1:
        # Loaders may give arrays on cpu_shared, which a net on cpu refuses.
        return [[a.as_in_context(ctx[0]) for a in arrays]]
    if len(arrays[0]) < len(ctx):
        raise ValueError(
            f"a batch of {len(arrays[0])} cannot be split over {len(ctx)} devices"
        )
    split = [gluon.utils.split_and_load(a, ctx, even_split=False) for a in arrays]
    return [list(shard) for shard in zip(*split)]


def _mean(records: Sequence[dict]) -> tuple[list[str], Any]:
    """Return the names of figures, and their means over devices, float32."""
    names = list(records[0])
    flat = [mx.nd.concat(*[r[n].reshape(1) for n in names], dim=0) for r in records]
    return names, sum(f.asnumpy() for f in flat) / len(flat)


def _clip(run: Run, clip_norm: float, shards: int) -> float:
    """Clip the norm of the mean gradient; return the norm before.

    Devices hold the sum of gradients over all shards, of all ranks.
    """
    limit = clip_norm * shards
    for device in run.options.ctx:
        grads = [p.grad(device) for p in run.trainable]
        norm = gluon.utils.clip_global_norm(grads, limit, check_isfinite=False)
    return float(norm.asscalar()) / shards
