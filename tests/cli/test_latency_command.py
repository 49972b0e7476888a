"""The command that makes latency tables."""

from __future__ import annotations

import json

import pytest

import gluon_compress as gc
from gluon_compress import latency
from gluon_compress.cli import latency as command
from latency_tables import made_up
from nets import SHAPE, ready, wide

SIZE = SHAPE[-1]


@pytest.fixture(autouse=True)
def waiting(monkeypatch):
    """Take back what the script sets for MXNet."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")


@pytest.fixture
def small(monkeypatch):
    """Let names stand for a small net, and its times be made up."""
    monkeypatch.setattr(command, "net_of", lambda name: ready(wide()))
    monkeypatch.setattr(gc, "measure_blocks", lambda graph, known: made_up(graph))
    monkeypatch.setattr(latency, "nets_ms", lambda nets, shape: [2.0] * len(nets))


def test_table_is_saved(call, small, tmp_path):
    table = tmp_path / "t.json"
    status, out, error = call("measure_latency", "x", "--table", table, "--size", SIZE)
    assert (status, error) == (0, "")
    graph = gc.trace(ready(wide()), SHAPE)
    told = gc.predict_latency(graph, gc.LatencyTable.load(table))
    assert out.startswith(f"{told:.2f} ms predicted for ")


def test_sums_are_compared_with_whole_nets(call, small, tmp_path):
    options = ["--table", tmp_path / "t.json", "--size", SIZE, "--check"]
    status, out, _ = call("measure_latency", "x", *options, "--out", tmp_path / "o")
    stored = json.loads((tmp_path / "o" / "result.json").read_text(encoding="utf-8"))
    rows = {row["plan"]: row for row in stored["rows"]}
    assert status == 0
    assert len(out.splitlines()) == 1 + len(rows) == 7
    full = rows["everything"]["predicted_ms"]
    assert full > rows["random 1"]["predicted_ms"] > 0
    assert rows["1/4 latency"]["predicted_ms"] <= full / 4
    assert f"{full:8.2f} ms predicted,     2.00 ms measured, {full / 2 - 1:+.1%}" in out


@pytest.mark.parametrize("option", ["--size", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_counts_start_at_1(call, tmp_path, option, value):
    table = ["--table", tmp_path / "t.json"]
    status, _, error = call("measure_latency", "x", *table, f"{option}={value}")
    assert status == 2
    assert "allowed: a whole number from 1" in error
    assert error.count("\n") == 1


def test_unknown_net_is_named(call, tmp_path):
    table = tmp_path / "t.json"
    status, _, error = call("measure_latency", "no_such_net", "--table", table)
    assert (status, error.count("\n")) == (2, 1)
    assert "no_such_net" in error
    assert not table.exists()


def test_broken_table_is_refused_before_anything_is_timed(call, tmp_path):
    (tmp_path / "t.json").write_text('{"format": 9}', encoding="utf-8")
    options = ["--table", tmp_path / "t.json"]
    status, _, error = call("measure_latency", "no_such_net", *options)
    assert status == 2
    assert "format is 9; this version reads latency tables of format 1" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x", "--bundle", "b"], "--bundle needs --runtime"),
        (["x", "--precision", "int8", "--table", "t"], "--precision needs --runtime"),
        (["--table", "t"], "NET is missing"),
        (["--runtime", "ncnn"], "--table is missing"),
        (
            ["--runtime", "ncnn", "--precision", "int8", "--table", "t"],
            "precision 'int8' of ncnn; allowed: float32",
        ),
        (["--runtime", "mxnet", "--bundle", "b"], "MXNet fuses layers with this"),
        (["--runtime", "ncnn", "--bundle", "b", "--table", "t"], "--table is for the"),
        (["--runtime", "ncnn", "--table", "t", "--spread", "0"], "a number above 0"),
        (["--tables", "t", "--runtime", "ncnn"], "--runtime has no place with"),
        (["--tables", "t"], "--each is missing"),
        (["--tables", "t", "--each", "ncnn/int8/1"], "precision 'int8' of ncnn"),
        (["--tables", "t", "--each", "ncnn/float32/0"], "a whole number from 1"),
        (["--table", "t", "--scheduler", "tcp://a:1"], "--scheduler needs --tables"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    call, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    status, _, error = call("measure_latency", *options)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtime", "ncnn", "--threads", "1"], "for runtime 'onnxruntime', wanted:"),
        (["--runtime", "onnxruntime", "--threads", "3"], "threads '1', wanted: '3'"),
        (["--runtime", "onnxruntime", "--threads", "1"], "cpu 'Another', wanted:"),
    ],
)
def test_table_of_something_else_is_not_extended(
    call, tmp_path, monkeypatch, options, message
):
    machine = {"runtime": "onnxruntime", "precision": "float32", "threads": "1"}
    table = latency.RuntimeTable({**machine, "cpu": "Another"}, 0.0)
    table.save(tmp_path / "t.json")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = [*options, "--table", tmp_path / "t.json"]
    status, _, error = call("measure_latency", *options)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error


def test_progress_is_printed_every_ten_seconds(capsys):
    now = [0.0]
    tell = command.progress("written", lambda: now[0])
    for done in range(25):
        tell(done, 25)
        now[0] += 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["10 of 25 written", "20 of 25 written"]
