"""Bundles of blocks, and the program that times them without this package."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gluon_compress import LatencyTable, predict_latency, trace
from gluon_compress.deployment.latency import bundle, runner
from gluon_compress.deployment.latency.timings import TIMINGS, timing_of
from nets import SHAPE, chain, ready

FORBIDDEN = """
import sys, runpy
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mxnet", "gluoncv", "cv2", "gluon_compress", "onnx"):
            raise ImportError(name + " is forbidden here")
sys.meta_path.insert(0, Forbid())
sys.path[:] = [sys.argv[1], *(p for p in sys.path if p)]
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def graph():
    return trace(ready(chain()), SHAPE)


@pytest.fixture(scope="module")
def folder(graph, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    place = tmp_path_factory.mktemp("bundle")
    bundle.write_bundle(graph, place, "onnxruntime", "float32")
    bundle.write_program(place)
    return place


def run(folder, table):
    program = [str(folder), str(folder / "measure.py"), "--spread=100"]
    return subprocess.run(
        [sys.executable, "-I", "-c", FORBIDDEN, *program, f"--table={table}"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_bundle_is_timed_without_this_package(graph, folder, tmp_path, monkeypatch):
    done = run(folder, tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    table = LatencyTable.load(tmp_path / "t.json")
    assert table.machine["runtime"] == "onnxruntime"
    assert predict_latency(graph, table) > 0
    first = (folder / runner.TIMES).read_text(encoding="utf-8")
    assert run(folder, tmp_path / "again.json").returncode == 0
    assert (folder / runner.TIMES).read_text(encoding="utf-8") == first
    again = (tmp_path / "again.json").read_text(encoding="utf-8")
    assert again == (tmp_path / "t.json").read_text(encoding="utf-8")


def test_missing_runtime_is_one_line(folder, tmp_path):
    content = json.loads((folder / runner.BUNDLE).read_text(encoding="utf-8"))
    content["runtime"] = "opencv"
    other = tmp_path / "other"
    other.mkdir()
    (other / runner.BUNDLE).write_text(json.dumps(content), encoding="utf-8")
    bundle.write_program(other)
    done = run(other, tmp_path / "t.json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "opencv cannot be imported" in done.stderr


def test_times_of_another_machine_are_refused(folder, tmp_path):
    machine = {"cpu": "here"}
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"machine": {"cpu": "there"}}), encoding="utf-8")
    with pytest.raises(ValueError, match="cpu 'there', now it is 'here'"):
        runner._earlier(file, machine)


def test_machine_that_becomes_slower_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(runner, "in_turns", lambda runs, seconds: [[runs[0]()] * 5])
    reference = runner.Reference(lambda: 13.0, 0.1, 10.0)
    with pytest.raises(runner.Busy, match=r"1\.30 times as long as before"):
        reference.check()
    assert "waiting: the machine is busy" in capsys.readouterr().out
    steady = runner.Reference(lambda: 10.5, 0.1, 10.0)
    steady.check()
    assert steady.spread == pytest.approx(0.05)


def test_progress_is_printed_every_few_seconds(capsys):
    now = [0.0]
    progress = runner.Progress(100, lambda: now[0])
    for done in range(101):
        progress.tell(done)
        now[0] += 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[1] == "10 of 100 blocks and nets, about 2 min left"


def test_time_of_a_block_is_the_difference_per_copy():
    pair = {"name": "a", "nets": [{"count": 1}, {"count": 3}]}
    assert runner._per_block(pair, {"a": [2.0, 5.0]}) == 1.5
    assert runner._per_block(pair, {"a": [2.0, 1.0]}) == 0


def test_bundle_of_another_runtime_is_refused(folder):
    with pytest.raises(ValueError, match="runtime is 'onnxruntime', wanted: 'ncnn'"):
        bundle.check_folder(folder, "ncnn", "float32")


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear", encoding="utf-8")
    with pytest.raises(ValueError, match="holds other files"):
        bundle.check_folder(tmp_path, "ncnn", "float32")


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'int8' of ncnn; allowed: float32"):
        timing_of("ncnn", "int8")
    assert len(TIMINGS) == 9
