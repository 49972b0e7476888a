"""The command ``gluon-compress``; ``scripts/`` holds the same commands by file name.

Importing a command does not load MXNet; running one does.
"""

from __future__ import annotations

from typing import NoReturn, Sequence

from gluon_compress.stopping import at_once

with at_once():
    from gluon_compress.cli import (
        anchors,
        bench,
        check_data,
        detect,
        download,
        evaluate,
        export,
        latency,
        launch,
        models,
        nncf,
        recipes,
        serve,
        split,
        split_detect,
    )
    from gluon_compress.cli.app import dispatch

COMMANDS = {
    "run": recipes.RUN,
    "train": recipes.TRAIN,
    "prune": recipes.PRUNE,
    "plan": recipes.PLAN,
    "launch": launch.LAUNCH,
    "recipe": nncf.RECIPE,
    "anchors": anchors.ANCHORS,
    "check-data": check_data.CHECK_DATA,
    "evaluate": evaluate.EVALUATE,
    "detect": detect.DETECT,
    "compare": detect.COMPARE,
    "split": split.SPLIT,
    "serve": serve.SERVE,
    "split-detect": split_detect.SPLIT_DETECT,
    "remote-detect": split_detect.REMOTE_DETECT,
    "export": export.EXPORT,
    "bench": bench.BENCH,
    "latency": latency.LATENCY,
    "download": download.DOWNLOAD,
    "models": models.MODELS,
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the first argument names, and exit."""
    dispatch(COMMANDS, argv)
