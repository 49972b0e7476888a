"""A run of training between its steps: trainer, position, log and checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon

from gluon_compress.train.checkpoint import read_checkpoint, write_checkpoint
from gluon_compress.train.log import LOG
from gluon_compress.train.schedule import Schedule

LAST, BEST = "last.ckpt", "best.ckpt"
# Names that MXNet documents; it takes any other for "local". Not the asynchronous one,
# which makes updates itself.
KVSTORES = ("device", "local", "nccl", "dist_sync", "dist_device_sync")
WORKERS = "DMLC_NUM_WORKER"  # set by MXNet's launcher of distributed training


class Diverged(ArithmeticError):
    """The loss, a gradient or a parameter is no longer a finite number."""


@dataclass
class Progress:
    """Where a run is; stored in every checkpoint.

    ``epoch`` and ``batch`` are the next ones to run, ``step`` counts updates,
    ``best`` is the best validation value so far, ``log_bytes`` the length of the
    log that belongs to this state, ``seconds`` the time spent in steps, ``epochs``
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


@dataclass(frozen=True)
class Options:
    """How ``fit`` runs, as opposed to what it computes.

    Parameters
    ----------
    ctx : tuple of Context
        Devices; a batch is split over them. Resuming is exact on one.
    kvstore : str
        One of ``KVSTORES``, as in ``gluon.Trainer``.
    seed : int
        Decides dropout and any other operator that draws random numbers.
    resume : bool
        Go on from ``last.ckpt`` where there is one. Without it the folder must not
        hold a run.
    save_minutes : float
        A checkpoint is also written within an epoch after this many minutes.
    progress : bool
        Show a progress bar on standard error.

    Raises
    ------
    ValueError
        For a kvstore that is unknown, or that cannot be here.
    """

    ctx: tuple = field(default_factory=lambda: (mx.cpu(),))
    kvstore: str = "device"
    seed: int = 0
    resume: bool = False
    save_minutes: float = 10.0
    progress: bool = True

    def __post_init__(self) -> None:
        name, needs = self.kvstore, None
        if name not in KVSTORES:
            raise ValueError(f"kvstore is {name!r}; allowed: {', '.join(KVSTORES)}")
        if name == "nccl" and not mx.runtime.Features().is_enabled("NCCL"):
            needs = "an MXNet that is built with it"
        elif name.startswith("dist") and WORKERS not in os.environ:
            needs = f"a process that MXNet's launcher began, which sets {WORKERS}"
        if needs:
            raise ValueError(f"kvstore is {name!r}, which needs {needs}")


class Run:
    """A trainer, its position and its files."""

    def __init__(self, net, schedule: Schedule, folder: Path, options: Options) -> None:
        self.net, self.schedule, self.options = net, schedule, options
        self.folder, self.at = folder, Progress(epochs=schedule.epochs)
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
        # Updates are made here, not in the store: the clipping lies between.
        self.trainer = gluon.Trainer(
            self.learned,
            "sgd",
            rates,
            kvstore=options.kvstore,
            update_on_kvstore=False,
        )
        self.settings: dict[str, Any] = {}
        self.where = "the start"
        self.tick = self.saved = time.monotonic()

    def open(self, batches: int) -> None:
        """Go to where the folder's run stopped, or begin one in a folder without."""
        self.settings = self._settings(batches)
        stored = self._stored()
        if self.options.resume and LAST in stored:
            self._load()
        elif stored:
            raise ValueError(
                f"{self.folder / stored[0]}: the folder holds a run; resume it (which "
                f"takes {LAST}) or choose another folder"
            )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOG).write_text("")
            self.save()
        # What a kill in the middle of writing left behind.
        for name in (LAST, BEST):
            for path in self.folder.glob(f".{name}.*.tmp"):
                path.unlink()

    def _settings(self, batches: int) -> dict:
        """Return what decides the outcome, as JSON gives it back."""
        return {
            **self.schedule.to_json(),
            "seed": self.options.seed,
            "batches": batches,
            "learned": len(self.learned),
        }

    def _stored(self) -> list[str]:
        """Return which files of an earlier run are there."""
        if self.folder.is_file():
            raise ValueError(f"{self.folder}: is a file; a run needs a folder")
        log = self.folder / LOG
        stored = [name for name in (LAST, BEST) if (self.folder / name).exists()]
        if (
            log.exists() and log.stat().st_size
        ):  # a run killed at its start has it empty
            stored.append(LOG)
        return stored

    def save(self) -> None:
        """Write ``last.ckpt``."""
        with open(self.folder / LOG, "ab") as log:
            os.fsync(log.fileno())  # a checkpoint must not outlive its lines
            self.at.log_bytes = log.tell()
        states = self.folder / "optimiser.tmp"
        self.trainer.save_states(str(states))
        meta, content = asdict(self.at), states.read_bytes()
        meta["settings"] = self.settings
        write_checkpoint(self.folder / LAST, self.all, meta, content)
        states.unlink()
        self.tick = self.saved = time.monotonic()

    def save_if_old(self) -> None:
        """Write ``last.ckpt`` if the last time was long ago, after a finished step."""
        if time.monotonic() - self.saved > 60 * self.options.save_minutes:
            self.check_parameters()
            self.save()

    def _load(self) -> None:
        path = self.folder / LAST
        meta, content = read_checkpoint(path, self.all, accept=self._check_settings)
        meta.pop("settings", None)
        self.at = Progress(**{**meta, "epochs": self.schedule.epochs})
        states = self.folder / "optimiser.tmp"
        states.write_bytes(content)
        self.trainer.load_states(str(states))
        states.unlink()
        # Lines written after the checkpoint belong to steps that will be repeated.
        with open(self.folder / LOG, "ab") as log:
            log.truncate(min(self.at.log_bytes, log.tell()))

    def _check_settings(self, meta: dict) -> None:
        """Refuse to go on under another schedule, which would be neither run."""
        for name, value in meta.get("settings", {}).items():
            if self.settings.get(name) != value:
                raise ValueError(
                    f"{self.folder / LAST}: the run was started with {name} {value!r}, "
                    f"now it is {self.settings.get(name)!r}; it resumes as it was"
                )

    def place(self, rate: float) -> None:
        """Note where the next check would fail."""
        at = self.at
        self.where = (
            f"epoch {at.epoch}, batch {at.batch}, step {at.step}, "
            f"learning rate {rate:.3g}"
        )

    def check(self, what: str, value: float) -> None:
        """Stop the run if a value is not finite."""
        if not math.isfinite(value):
            raise Diverged(
                f"the {what} became {value} at {self.where}; lower the rate or the "
                f"clip norm; the last good state is {self.folder / LAST}"
            )

    def check_parameters(self) -> None:
        """Keep values out of the checkpoints that the next loss would show as NaN."""
        for parameter in self.all:
            total = float(np.abs(parameter.list_data()[0].asnumpy()).max())
            self.check(f"parameter {parameter.name!r}", total)

    def judge(self, figures: dict) -> None:
        """Log a validation and keep the parameters if they are the best so far."""
        figures = {name: float(value) for name, value in figures.items()}
        value = next(iter(figures.values()))
        # JSON has no NaN, the precision of a class without objects for instance.
        known = {n: v if math.isfinite(v) else None for n, v in figures.items()}
        self._log({"kind": "validation", "epoch": self.at.epoch, **known})
        if math.isnan(value):
            return
        if self.at.best is None or value > self.at.best:
            self.at.best, self.at.best_epoch = value, self.at.epoch
            write_checkpoint(self.folder / BEST, self.all, asdict(self.at))

    def forget_best(self) -> None:
        """Remove ``best.ckpt`` where a callback said that it no longer counts."""
        if self.at.best is None:
            (self.folder / BEST).unlink(missing_ok=True)

    def log_step(self, rate: float, figures: dict, images: int) -> dict:
        """Log a step that was made and count it; return the record."""
        now = time.monotonic()
        seconds, self.tick = now - self.tick, now
        self.at.seconds += seconds
        record = {
            "kind": "step",
            "epoch": self.at.epoch,
            "step": self.at.step,
            "lr": rate,
            **figures,
            "images_per_second": images / max(seconds, 1e-9),
        }
        self._log(record)
        self.at.step += 1
        return record

    def _log(self, record: dict) -> None:
        with open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
