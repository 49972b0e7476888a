"""The state of a training run: trainer, progress, log and checkpoints."""

from __future__ import annotations

import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ContextManager, Dict, Mapping, Optional

import mxnet as mx
import numpy as np
from mxnet import gluon

from gluon_compress.distributed import ALONE, Ranks, digest, is_launched, ranks
from gluon_compress.provenance import commit
from gluon_compress.storage.atomic import appended
from gluon_compress.train.averages import Averages
from gluon_compress.train.checkpoint import (
    check_resumable,
    read_checkpoint,
    write_checkpoint,
)
from gluon_compress.train.log import LOG, log_line
from gluon_compress.train.optimizer_state import (
    OptimizerState,
    check_optimizer_state,
    optimizer_state,
    set_optimizer_state,
)
from gluon_compress.train.replicas import Replicas, told
from gluon_compress.train.schedule import Schedule
from gluon_compress.validation import (
    CountOrZero,
    NonNegative,
    Settings,
    parse,
    shown,
)

LAST, BEST = "last.ckpt", "best.ckpt"
# The names that MXNet documents; it treats any other as "local". Without the
# asynchronous one, which updates by itself.
KVSTORES = ("device", "local", "nccl", "dist_sync", "dist_device_sync")
DEFAULT = {False: "device", True: "dist_sync"}  # whether a launcher is around
DISTRIBUTED = tuple(name for name in KVSTORES if name.startswith("dist"))


class Diverged(ArithmeticError):
    """The loss, a gradient or a parameter is no longer a finite number."""


@dataclass
class Progress:
    """How far a run has got; stored in every checkpoint.

    ``epoch`` and ``batch`` are the next to run, ``step`` counts updates, ``best`` is
    the best validation value so far and ``best_epoch`` its epoch, ``log_bytes`` is the
    length of the log at this state, ``seconds`` the time spent in steps, and ``epochs``
    the length of the run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int | None = None
    log_bytes: int = 0
    seconds: float = 0.0
    epochs: int = 0


class _StoredProgress(Settings):
    """The fields of ``Progress`` in a checkpoint, checked before use."""

    epoch: CountOrZero
    batch: CountOrZero
    step: CountOrZero
    best: Optional[float]
    best_epoch: Optional[CountOrZero]
    log_bytes: CountOrZero
    seconds: NonNegative
    epochs: CountOrZero = 0
    settings: Dict[str, Any] = {}


def stored_progress(meta: Any, source: Any) -> Progress:
    """Return the progress that a checkpoint states.

    Raises
    ------
    ValueError
        If a field is missing, unknown or no such number; the message names it.
    """
    fields = dict(parse(_StoredProgress, meta, source))
    del fields["settings"]
    return Progress(**fields)


@dataclass(frozen=True)
class Options:
    """How ``fit`` runs, as opposed to what it computes.

    Parameters
    ----------
    ctx : tuple of Context
        Devices; a batch, or a rank's part of it, is split over them.
    kvstore : str
        One of ``KVSTORES``, as in ``gluon.Trainer``. Those that begin with ``dist`` add
        gradients over all processes that ``gluon-compress launch`` began. By default
        ``device``, or ``dist_sync`` in such a process, where nothing else is allowed.
    gradient_threshold : float, optional
        With these: send 2 bits for a number (``distributed.sums``).
    exact_sums : bool
        With these: sums do not depend on which rank is first.
    seed : int
        Decides dropout and any other operator that draws random numbers.
    resume : bool
        Continue from ``last.ckpt`` if there is one. If False, the folder must not
        contain a run.
    save_minutes : float
        Within an epoch, write a checkpoint after this many minutes, too.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    ValueError
        For a kvstore that is unknown, or not available here, or a threshold without
        one that it is for.
    """

    ctx: tuple = field(default_factory=lambda: (mx.cpu(),))
    kvstore: str = field(default_factory=lambda: DEFAULT[is_launched()])
    seed: int = 0
    resume: bool = False
    save_minutes: float = 10.0
    progress: bool = True
    gradient_threshold: float | None = None
    exact_sums: bool = True

    def __post_init__(self) -> None:
        name, needs = self.kvstore, None
        if name not in KVSTORES:
            raise ValueError(f"kvstore is {name!r}; allowed: {', '.join(KVSTORES)}")
        if name == "nccl" and not mx.runtime.Features().is_enabled("NCCL"):
            needs = "an MXNet that is built with it"
        elif name in DISTRIBUTED and not is_launched():
            needs = "a process that 'gluon-compress launch' began"
        if needs:
            raise ValueError(f"kvstore is {name!r}, which needs {needs}")
        if name not in DISTRIBUTED and is_launched():
            allowed = ", ".join(DISTRIBUTED)
            raise ValueError(
                f"kvstore is {name!r}; allowed in a launched process: {allowed}"
            )
        threshold = self.gradient_threshold
        if threshold is not None and (name not in DISTRIBUTED or not threshold > 0):
            raise ValueError(
                f"gradient_threshold is {threshold}; allowed: a number above 0, with "
                f"the kvstores {', '.join(DISTRIBUTED)}"
            )

    @property
    def ranks(self) -> Ranks:
        """The ranks that train together."""
        return ranks() if self.kvstore in DISTRIBUTED else ALONE


class Run:
    """A trainer, its position and its files."""

    def __init__(
        self,
        net,
        schedule: Schedule,
        folder: Path,
        options: Options,
        identity: Mapping[str, Any],
    ) -> None:
        self.identity = identity
        self.net, self.schedule, self.options = net, schedule, options
        self.folder, self.progress = folder, Progress(epochs=schedule.epochs)
        self.parameters = list(net.collect_params().values())
        self.trainable = [p for p in self.parameters if p.grad_req != "null"]
        for parameter in self.trainable:
            if len(parameter.shape) == 1:  # BatchNorm and biases
                parameter.wd_mult = 0.0
        momentum = {"sgd": "momentum", "adam": "beta1"}[schedule.optimizer]
        rates = {
            "learning_rate": schedule.learning_rate,
            momentum: schedule.momentum,
            "wd": schedule.weight_decay,
        }
        # A list, not a dict: a dict would be sorted by names, which contain counters.
        # Updates are made here, not in the store, so that gradients can be clipped.
        self.trainer = gluon.Trainer(
            self.trainable,
            schedule.optimizer,
            rates,
            kvstore=None if options.kvstore in DISTRIBUTED else options.kvstore,
            update_on_kvstore=False,
        )
        self.ranks = options.ranks
        self.replicas = Replicas(self.parameters, self.trainable, self.trainer, options)
        ema = schedule.ema
        self.averages = None if ema is None else Averages(self.parameters, ema)
        self.settings: dict[str, Any] = {}
        self.position = "the start"
        self.tick = self.saved = time.monotonic()

    def open(self, batches: int) -> None:
        """Resume the run in the folder, or start one."""
        self.settings = self._settings(batches)
        stored = self._stored()
        self._agree(stored)
        if self.options.resume and LAST in stored:
            self._load()
        elif not self.ranks.leads:
            pass
        elif stored:
            raise ValueError(
                f"{self.folder / stored[0]}: the folder holds a run; resume it (this "
                f"needs {LAST}) or choose another folder"
            )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOG).write_text("")
            self.save()
        self.replicas.start()

    def _agree(self, stored: list[str]) -> None:
        """Refuse to train with ranks that would train something else."""
        if self.ranks.size == 1:
            return
        facts = {"commit": commit(), **told(self.settings), **self.replicas.facts()}
        if self.options.resume:
            path = self.folder / LAST
            content = digest(path.read_bytes()) if LAST in stored else None
            facts[f"checkpoint {LAST}"] = content
        self.ranks.agree("training", facts)

    def _settings(self, batches: int) -> dict:
        """Return the settings that decide the outcome, JSON-able."""
        return {
            **self.schedule.to_json(),
            "seed": self.options.seed,
            "batches": batches,
            "learned": len(self.trainable),
            "gradient_threshold": self.options.gradient_threshold,
            **self.identity,
        }

    def _stored(self) -> list[str]:
        """Return the names of the files of an earlier run."""
        if self.folder.is_file():
            raise ValueError(f"{self.folder}: is a file; a run needs a folder")
        log = self.folder / LOG
        stored = [name for name in (LAST, BEST) if (self.folder / name).exists()]
        if log.exists() and log.stat().st_size:  # empty: a run killed at its start
            stored.append(LOG)
        return stored

    def save(self) -> None:
        """Write ``last.ckpt``; only rank 0 does."""
        if not self.ranks.leads:
            return
        path = self.folder / LOG
        with appended(path) as log:
            os.fsync(log.fileno())  # a checkpoint must not outlive its log
            self.progress.log_bytes = log.tell()
        meta = {**asdict(self.progress), "settings": self.settings}
        state = optimizer_state(self.trainer)
        if self.averages is not None:
            state = replace(state, averages=self.averages.stored())
        write_checkpoint(self.folder / LAST, self.parameters, meta, state)
        self.tick = self.saved = time.monotonic()

    def save_if_old(self) -> None:
        """Write ``last.ckpt`` if it is older than ``save_minutes``."""
        if time.monotonic() - self.saved > 60 * self.options.save_minutes:
            self.check_parameters()
            self.save()

    def save_for_resume(self) -> str:
        """Write ``last.ckpt`` before the process stops; return what to do next."""
        self.check_parameters()
        self.save()
        steps = f"{self.progress.step} steps are in {self.folder / LAST}"
        return f"{steps}, which can be resumed"

    def _load(self) -> None:
        path = self.folder / LAST
        meta, state = read_checkpoint(path, self.parameters, accept=self._accept)
        stored = stored_progress(meta, path)
        self.progress = replace(stored, epochs=self.schedule.epochs)
        set_optimizer_state(self.trainer, state)
        if self.averages is not None:
            self.averages.load(state.averages)
        if not self.ranks.leads:
            return
        # Lines written after the checkpoint belong to steps that are repeated now.
        path = self.folder / LOG
        with appended(path) as log:
            log.truncate(min(self.progress.log_bytes, log.tell()))

    def _accept(self, meta: dict, state: OptimizerState) -> None:
        """Refuse to continue under other settings, or from what is no state of ours."""
        path = self.folder / LAST
        check_resumable(path, state)
        progress = stored_progress(meta, path)
        for name, value in meta.get("settings", {}).items():
            if self.settings.get(name) != value:
                raise ValueError(
                    f"{path}: the run was started with {shown(name)[1:-1]} "
                    f"{shown(value)}, now it is {shown(self.settings.get(name))}; "
                    "resume it unchanged"
                )
        batches = self.settings["batches"]
        if progress.epoch > self.schedule.epochs or progress.batch > batches:
            raise ValueError(
                f"{path}: is at epoch {progress.epoch}, batch {progress.batch}; "
                f"allowed: up to {self.schedule.epochs} and {batches}"
            )
        check_optimizer_state(self.trainer, state, path)
        if self.averages is not None:
            self.averages.check(state.averages, path)

    def average(self) -> None:
        """Add the parameters after an update to their averages, if there are any."""
        if self.averages is not None:
            self.averages.update(self.progress.step)

    def averaged(self) -> ContextManager:
        """Return a block in which the parameters are their averages, if there are."""
        return nullcontext() if self.averages is None else self.averages.applied()

    def finish(self) -> None:
        """Leave the averages in the net, if there are any."""
        if self.averages is not None:
            self.averages.apply()

    def note_position(self, rate: float) -> None:
        """Note the position for the message of a failing check."""
        progress = self.progress
        self.position = (
            f"epoch {progress.epoch}, batch {progress.batch}, step {progress.step}, "
            f"learning rate {rate:.3g}"
        )

    def check(self, what: str, value: float) -> None:
        """Stop the run if a value is not finite."""
        if not math.isfinite(value):
            raise Diverged(
                f"the {what} became {value} at {self.position}; lower the rate or the "
                f"clip norm; the last good state is {self.folder / LAST}"
            )

    def check_parameters(self) -> None:
        """Stop the run if a parameter is not finite, before it is stored."""
        for parameter in self.parameters:
            largest = float(np.abs(parameter.list_data()[0].asnumpy()).max())
            self.check(f"parameter {parameter.name!r}", largest)

    def record_validation(self, figures: dict) -> None:
        """Log a validation, and store the parameters if it is the best so far."""
        figures = {name: float(value) for name, value in figures.items()}
        value = next(iter(figures.values()))
        # JSON has no NaN, the precision of a class without objects for instance.
        finite = {n: v if math.isfinite(v) else None for n, v in figures.items()}
        self._log({"kind": "validation", "epoch": self.progress.epoch, **finite})
        if not math.isfinite(value):  # no accuracy, so it is not the best one
            return
        if self.progress.best is None or value > self.progress.best:
            self.progress.best, self.progress.best_epoch = value, self.progress.epoch
            write_checkpoint(self.folder / BEST, self.parameters, asdict(self.progress))

    def forget_best(self) -> None:
        """Remove ``best.ckpt`` if a callback has reset ``progress.best``."""
        if self.progress.best is None and self.ranks.leads:
            (self.folder / BEST).unlink(missing_ok=True)

    def log_step(self, rate: float, figures: dict, images: int) -> dict:
        """Log and count a finished step; return its record."""
        now = time.monotonic()
        seconds, self.tick = now - self.tick, now
        self.progress.seconds += seconds
        record = {
            "kind": "step",
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "lr": rate,
            **figures,
            "images_per_second": images / max(seconds, 1e-9),
        }
        self._log(record)
        self.progress.step += 1
        return record

    def _log(self, record: dict) -> None:
        if not self.ranks.leads:
            return
        path = self.folder / LOG
        with appended(path) as log:
            log.write(log_line(record).encode())
