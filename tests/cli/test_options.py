"""What the options of commands mean."""

from __future__ import annotations

import argparse
import json

import mxnet as mx
import pytest

from gluon_compress.cli.options import (
    add_sweep,
    contexts,
    devices,
    sweep_of,
    write_result,
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cpu", ("cpu0",)),
        ("cpu(0,1)", ("cpu0", "cpu1")),
        ("gpu", ("gpu0",)),
        ("gpu(1)", ("gpu1",)),
        ("gpu(0, 1,10)", ("gpu0", "gpu1", "gpu10")),
    ],
)
def test_devices_have_names(text, names):
    assert devices(text) == names


@pytest.mark.parametrize(
    "text", ["", "tpu", "gpu()", "gpu(0,0)", "gpu(-1)", "0", "cpu(0),gpu(0)"]
)
def test_unknown_device_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        devices(text)
    assert repr(text) in str(refused.value)


def test_gpu_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 1)
    assert contexts(("gpu0",)) == (mx.gpu(0),)
    with pytest.raises(ValueError, match="gpu1"):
        contexts(("gpu0", "gpu1"))


def sweep(*given):
    parser = argparse.ArgumentParser()
    add_sweep(parser, "do it")
    return sweep_of(parser.parse_args(given))


def test_tasks_run_here_unless_workers_are_asked_for(capsys):
    assert sweep().is_here
    assert sweep("--workers", "2", "--retries", "0").workers == 2
    assert sweep("--scheduler", "tcp://a:1").scheduler == "tcp://a:1"
    with pytest.raises(ValueError, match="--retries 1"):
        sweep("--retries", "1")
    with pytest.raises(SystemExit):
        sweep("--workers", "2", "--scheduler", "tcp://a:1")
    assert "not allowed with" in capsys.readouterr().err


def test_result_holds_figures_and_environment(tmp_path):
    path = write_result(tmp_path / "new", {"mAP": 0.5})
    content = json.loads(path.read_text())
    assert content["mAP"] == 0.5
    assert {"commit", "date", "hardware", "versions"} <= set(content)
