"""A rank of the tests; ``gluon-compress launch`` begins it.

rank.py fit FOLDER STEP SIGNAL    train; rank 1 gets a signal once after STEP
rank.py recipe FILE FOLDER STAGE  run a recipe, but time no net, write no report;
                                  rank 1 dies once when a training of STAGE begins
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gluon_compress.distributed.members import ATTEMPT, RANK
from gluon_compress.train import LAST, Options, fit
from training import QUIET, SHORT, Batches, conv_net, cross_entropy, figures

SCHEDULE = SHORT.replace(clip_norm=1.0, ema=0.9)


def train(net, folder: Path, options: Options, **changes: Any):
    """Train as all ranks do, and as the process does that they are compared with."""
    parts = {"validate": figures(net), "options": options, **changes}
    return fit(net, Batches(3, size=8), cross_entropy, SCHEDULE, folder, **parts)


def train_as_rank(folder: Path, last_step: int, number: int) -> None:
    # Of what is killed, only earlier checkpoints are left.
    minutes = 0 if number == signal.SIGKILL else 10
    options = replace(QUIET, resume=True, save_minutes=minutes)
    net = conv_net(0.0)
    if options.ranks.rank == 1:  # has to begin with the values of rank 0
        for parameter in net.collect_params().values():
            parameter.set_data(parameter.data() * 1.5)

    def die(net, progress) -> None:
        first = os.environ["GLUON_COMPRESS_ATTEMPT"] == "1"
        if first and options.ranks.rank == 1 and progress.step == last_step:
            os.kill(os.getpid(), number)

    train(net, folder, options, step_callbacks=[die])


def die_after(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def main(what: str, *given: str) -> None:
    if what == "fit":
        train_as_rank(Path(given[0]), int(given[1]), int(given[2]))
    else:
        import pytest

        import tiny_nets
        from gluon_compress.recipe import load_recipe
        from recipes import quick_run

        tiny_nets.register(pytest.MonkeyPatch())
        file, folder, stage = given
        again = os.environ[ATTEMPT] != "1"
        if not again and os.environ[RANK] == "1":
            checkpoint = Path(folder, stage, LAST)
            threading.Thread(target=die_after, args=[checkpoint], daemon=True).start()
        quick_run(load_recipe(file), folder, resume=again)


if __name__ == "__main__":
    main(*sys.argv[1:])
