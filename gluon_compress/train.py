"""The only training loop: steps, checkpoints, and a resume that repeats nothing.

Everything random is a function of (seed, step), so a run that is killed and resumed
ends with the parameters of a run that was not. ``fit`` knows nothing about detectors
or pruning: it takes any net and any step loss.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable, Mapping, Sequence

import mxnet as mx
from mxnet import autograd, gluon
from tqdm import tqdm

from gluon_compress.checkpoint import read_checkpoint, write_checkpoint
from gluon_compress.recipe import Schedule

LOG, LAST, BEST = "log.jsonl", "last.ckpt", "best.ckpt"


class Diverged(ArithmeticError):
    """The loss or a gradient is no longer a finite number."""


@dataclass
class Progress:
    """Where a run is; stored in every checkpoint.

    ``epoch`` and ``batch`` are the next ones to run, ``step`` counts updates,
    ``best`` is the best validation value so far, ``log_bytes`` the length of the
    log that belongs to this state, ``seconds`` the time spent in steps.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    log_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Options:
    """How ``fit`` runs, as opposed to what it computes.

    Parameters
    ----------
    ctx : tuple of Context
        Devices; a batch is split over them.
    kvstore : str
        As in ``gluon.Trainer``.
    seed : int
        Decides dropout and any other operator that draws random numbers.
    resume : bool
        Go on from ``last.ckpt`` where there is one.
    save_minutes : float
        A checkpoint is also written within an epoch after this many minutes.
    progress : bool
        Show a progress bar on standard error.
    """

    ctx: tuple = field(default_factory=lambda: (mx.cpu(),))
    kvstore: str = "device"
    seed: int = 0
    resume: bool = False
    save_minutes: float = 10.0
    progress: bool = True


def fit(
    net: gluon.HybridBlock,
    batches,
    step_loss: Callable,
    schedule: Schedule,
    folder: str | os.PathLike,
    *,
    validate: Callable[[], Mapping[str, float]] | None = None,
    callbacks: Sequence[Callable] = (),
    options: Options | None = None,
) -> Progress:
    """Train ``net`` and leave ``log.jsonl``, ``last.ckpt`` and ``best.ckpt`` behind.

    Parameters
    ----------
    net : HybridBlock
        Initialised; the only thing that is changed.
    batches
        ``len(batches)`` batches an epoch; ``batches.epoch(number, start)`` yields
        tuples of arrays whose first axis is the sample.
    step_loss : callable
        ``step_loss(net, batch) -> (loss, {part: value})``, called under
        ``autograd.record``; loss and parts are arrays of one element.
    schedule : Schedule
    folder : path
        Made when missing.
    validate : callable, optional
        Returns named figures, higher is better; the first decides ``best.ckpt``.
        Runs every ``schedule.validate_every`` epochs and after the last one.
    callbacks : sequence of callables
        Called as ``callback(net, progress)`` before the first batch of each epoch.
        What they change must lie in the net's parameters, so that it is stored.
    options : Options, optional

    Returns
    -------
    Progress
        The final state.

    Raises
    ------
    Diverged
        If the loss or the gradient is not finite. The last good checkpoint stays.
    ValueError
        If there is nothing to train on, or a checkpoint does not fit.
    """
    options = options or Options()
    if len(batches) < 1:
        raise ValueError("there is not one batch to train on: the data set is empty")
    run = _Run(net, schedule, Path(folder), options)
    if not (options.resume and run.load()):
        run.start()
    while run.at.epoch < schedule.epochs:
        if run.at.batch == 0:
            for callback in callbacks:
                callback(net, run.at)
        _epoch(run, batches, step_loss)
        if validate is not None and _is_due(run.at.epoch, schedule):
            run.judge(dict(validate()))
        run.save()
    return run.at


def learning_rate(schedule: Schedule, epoch: float) -> float:
    """Return the rate at a point of the schedule, in epochs (fractions count).

    Linear warm-up from a tenth of the rate, then half a cosine down to 1 % of it
    (Loshchilov and Hutter 2016, equation 5, one cycle) or a factor ``decay`` at each
    of the milestones.
    """
    base = schedule.learning_rate
    if epoch < schedule.warmup_epochs:
        return base * (0.1 + 0.9 * epoch / schedule.warmup_epochs)
    if schedule.mode == "cosine":
        span = max(schedule.epochs - schedule.warmup_epochs, 1e-9)
        part = min((epoch - schedule.warmup_epochs) / span, 1.0)
        return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))
    return base * schedule.decay ** sum(epoch >= m for m in schedule.milestones)


def _is_due(done: int, schedule: Schedule) -> bool:
    every = schedule.validate_every
    return done == schedule.epochs or (every > 0 and done % every == 0)


def _epoch(run: _Run, batches, step_loss: Callable) -> None:
    at, size = run.at, len(batches)
    bar = tqdm(
        total=size,
        initial=at.batch,
        desc=f"epoch {at.epoch + 1}/{run.schedule.epochs}",
        unit="batch",
        disable=not run.options.progress,
        mininterval=0.5,
    )
    with bar:
        for batch in batches.epoch(at.epoch, at.batch):
            record = _step(run, batch, step_loss, at.epoch + at.batch / size)
            parts = {k: f"{v:.3f}" for k, v in record["parts"].items()}
            speed = f"{record['images_per_second']:.1f}"
            bar.set_postfix({"loss": f"{record['loss']:.3f}", **parts, "img/s": speed})
            bar.update()
            at.batch += 1
            if at.batch < size:
                run.save_if_old()
    at.epoch, at.batch = at.epoch + 1, 0


def _step(run: _Run, batch: Sequence, step_loss: Callable, epoch: float) -> dict:
    at, rate = run.at, learning_rate(run.schedule, epoch)
    mx.random.seed((run.options.seed * 1_000_003 + at.step) % 2**31)
    shards = _shard(batch, run.options.ctx)
    with autograd.record():
        losses = [step_loss(run.net, shard) for shard in shards]
    autograd.backward([loss for loss, _ in losses])
    loss, parts = _mean([{"loss": loss, **parts} for loss, parts in losses])
    where = f"epoch {at.epoch}, batch {at.batch}, step {at.step}"
    if not math.isfinite(loss):
        raise Diverged(_advice("loss", loss, where, rate, run))
    if run.schedule.clip_norm is not None:
        norm = _clip(run.learned, run.schedule.clip_norm, run.options.ctx)
        if not math.isfinite(norm):
            raise Diverged(_advice("gradient norm", norm, where, rate, run))
    run.trainer.set_learning_rate(rate)
    run.trainer.step(len(shards))
    return run.log_step(rate, loss, parts, len(batch[0]))


def _advice(what: str, value: float, where: str, rate: float, run: _Run) -> str:
    return (
        f"the {what} became {value} at {where}, learning rate {rate:.3g}; "
        f"lower the rate or the clip norm; the last good state is {run.folder / LAST}"
    )


def _shard(batch: Sequence, ctx: Sequence) -> list[list]:
    """Split every array of a batch over the devices."""
    arrays = [a if isinstance(a, mx.nd.NDArray) else mx.nd.array(a) for a in batch]
    if len(ctx) == 1:
        # Loaders may hand over arrays on cpu_shared, which a net on cpu refuses.
        return [[a.as_in_context(ctx[0]) for a in arrays]]
    parts = min(len(ctx), len(arrays[0]))
    split = [
        gluon.utils.split_and_load(a, ctx[:parts], even_split=False) for a in arrays
    ]
    return [list(shard) for shard in zip(*split)]


def _mean(records: Sequence[dict]) -> tuple[float, dict]:
    names = list(records[0])
    flat = [mx.nd.concat(*[r[n].reshape(1) for n in names], dim=0) for r in records]
    values = sum(f.asnumpy() for f in flat) / len(flat)
    loss, *parts = (float(v) for v in values)
    return loss, dict(zip(names[1:], parts))


def _clip(parameters: Sequence, limit: float, ctx: Sequence) -> float:
    norms = []
    for device in ctx:
        grads = [p.grad(device) for p in parameters]
        norms.append(gluon.utils.clip_global_norm(grads, limit, check_isfinite=True))
    return max(norms)


class _Run:
    """A trainer, its position and its files."""

    def __init__(self, net, schedule, folder: Path, options: Options) -> None:
        self.net, self.schedule, self.options = net, schedule, options
        self.folder, self.at = folder, Progress()
        self.all = list(net.collect_params().values())
        self.learned = [p for p in self.all if p.grad_req != "null"]
        for parameter in self.learned:
            if len(parameter.shape) == 1:  # BatchNorm and biases
                parameter.wd_mult = 0.0
        rates = {
            "learning_rate": schedule.learning_rate,
            "momentum": schedule.momentum,
            "wd": schedule.weight_decay,
        }
        # A list, not a dict: a dict would be sorted by names that hold counters.
        self.trainer = gluon.Trainer(
            self.learned, "sgd", rates, kvstore=options.kvstore
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.tick = self.saved = time.monotonic()

    def start(self) -> None:
        for name in (LAST, BEST):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / LOG).write_text("")
        self.save()

    def save(self) -> None:
        self.at.log_bytes = (self.folder / LOG).stat().st_size
        states = self.folder / "optimiser.tmp"
        self.trainer.save_states(str(states))
        meta, content = asdict(self.at), states.read_bytes()
        write_checkpoint(self.folder / LAST, self.all, meta, content)
        states.unlink()
        self.tick = self.saved = time.monotonic()

    def save_if_old(self) -> None:
        # The position is advanced by the caller after a finished step only.
        if time.monotonic() - self.saved > 60 * self.options.save_minutes:
            self.save()

    def load(self) -> bool:
        """Go back to the last checkpoint; say whether there was one."""
        if not (self.folder / LAST).exists():
            return False
        meta, content = read_checkpoint(self.folder / LAST, self.all)
        self.at = Progress(**meta)
        states = self.folder / "optimiser.tmp"
        states.write_bytes(content)
        self.trainer.load_states(str(states))
        states.unlink()
        # Lines written after the checkpoint belong to steps that will be repeated.
        with open(self.folder / LOG, "ab") as log:
            log.truncate(self.at.log_bytes)
        return True

    def judge(self, figures: dict) -> None:
        """Log a validation and keep the parameters if they are the best so far."""
        value = next(iter(figures.values()))
        self.log({"kind": "validation", "epoch": self.at.epoch, **figures})
        if math.isnan(value):
            return
        if self.at.best is None or value > self.at.best:
            self.at.best, self.at.best_epoch = value, self.at.epoch
            write_checkpoint(self.folder / BEST, self.all, asdict(self.at))

    def log_step(self, rate: float, loss: float, parts: dict, images: int) -> dict:
        now = time.monotonic()
        seconds, self.tick = now - self.tick, now
        self.at.seconds += seconds
        record = {
            "kind": "step",
            "epoch": self.at.epoch,
            "step": self.at.step,
            "lr": rate,
            "loss": loss,
            "parts": parts,
            "images_per_second": images / max(seconds, 1e-9),
        }
        self.log(record)
        self.at.step += 1
        return record

    def log(self, record: dict) -> None:
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
