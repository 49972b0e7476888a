from __future__ import annotations

import gc
import os
import resource
import runpy
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from gluon_compress.cli import COMMANDS

# Looking for cycles among the many small objects of tests takes a tenth of their time.
gc.set_threshold(200_000, 50, 1000)

BESIDE = Path(__file__).resolve().parents[2]
# Now: commands with --data, which tests run in this process, set the variable.
DATA = os.environ.get("GLUON_COMPRESS_DATA")

# The files that take longest, first: workers that take whole files end together then.
LONGEST = (
    "deployment/test_web_page",
    "distributed/test_training",
    "serving/test_server",
    "pipeline/test_pipeline",
    "prune/test_zoo_nets",
    "pipeline/test_decide",
    "scripts/test_kill",
    "deployment/test_deploy_page",
    "deployment/test_deploy",
    "prune/test_mask_and_slim",
    "models/test_models",
    "serving/test_client",
    "pipeline/test_classifier",
    "models/test_rcnn",
    "models/test_centernet",
    "pipeline/test_train_ssd",
    "splitting/test_halves",
    "models/test_refinedet",
    "scripts/test_benchmarks",
    "plan/test_budgets",
    "deployment/test_deformable_forms",
    "deployment/test_quantised",
    "compression/test_sparsify",
    "zoo/test_zoo",
    "compression/test_split",
    "cli/test_model_commands",
    "cli/test_app",
    "deployment/test_folding",
    "prune/test_recalibration",
    "scripts/test_release",
    "test_installed",
)


def pytest_configure(config):
    """Keep the order of files, and let tests be interrupted.

    pytest-xdist would put files of many tests first. What a shell begins in the
    background ignores SIGINT, and so would all processes of the tests.
    """
    config.option.loadscopereorder = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Leave out what is long unless it is asked for; the longest files come first."""
    if "long" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    order = {f"tests/{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets, or skip the test.

    It is ``GLUON_COMPRESS_DATA``, or a folder ``data`` in a folder beside the checkout.
    """
    folders = [Path(DATA)] if DATA else sorted(BESIDE.glob("*/data"))
    for folder in folders:
        if (folder / "bccd").is_dir():
            return folder
    pytest.skip("real images are needed: GLUON_COMPRESS_DATA names no folder with bccd")


@pytest.fixture(scope="module")
def tiny_nets():
    """Let recipes name the nets of ``tiny_nets``."""
    from tiny_nets import register

    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


@pytest.fixture
def full_disk():
    """Return a block in which the system writes no file beyond so many bytes.

    As on a disk that is full, it writes what it can, and the next write fails.
    """

    @contextmanager
    def block(most: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return block


_SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def call(capsys, monkeypatch):
    """Return a function that runs a command: status, standard output, and error."""

    def run(name: str, *options) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        with pytest.raises(SystemExit) as end:
            command_of(name).main([str(option) for option in options])
        return (end.value.code or 0, *capsys.readouterr())

    return run


def command_of(name: str):
    """Return the command of a script or subcommand, without running it."""
    if not (_SCRIPTS / f"{name}.py").exists():
        return COMMANDS[name]
    return runpy.run_path(str(_SCRIPTS / f"{name}.py"))["COMMAND"]
