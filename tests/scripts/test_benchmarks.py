from __future__ import annotations

import importlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest

from benchmarks import (
    compression,
    distillation,
    layer_times,
    mxnet_forms,
    mxnet_time,
    policies_page,
    runner,
    runtimes_page,
    sparsity,
    training_step,
    worker,
)
from gluon_compress.cli.evaluate import precision_page
from gluon_compress.deployment import deploy
from refusals import assert_refused
from runtimes import detector
from tiny_nets import DETECTOR

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "thin"
    deploy(detector(size=(96, 160)), folder)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Return the folder where the plain convolution is deployed."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def workers_here(monkeypatch):
    """Let workers run in this process, and time each net and way once.

    MXNet's profiler may fail where it has been on before: it is on in children of this
    process, which have everything imported.
    """

    def in_process(module, setting, task):
        timer = importlib.import_module(module).TIMERS[task["time"]]
        task = json.loads(json.dumps({**task, **asdict(setting), "seconds": 0}))
        if task["time"] == "operators":
            fork = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(1, mp_context=fork) as child:
                return child.submit(timer, task).result()
        return timer(task)

    for module, name, count in (
        (worker, "WARM_UP", 0),
        (worker, "COUNTED", 1),
        (mxnet_forms, "PROFILED", 1),
    ):
        monkeypatch.setattr(module, name, count)
    for module in (runner, mxnet_time):
        monkeypatch.setattr(module, "in_process", in_process)


def row(net: str, ms: float, runtime: str = "mxnet", **other) -> dict:
    return {
        "net": net,
        "runtime": runtime,
        "precision": "float32",
        "threads": 2,
        "batch": 1,
        "ms": ms,
        "ms_quartiles": [ms - 0.1, ms + 0.2],
        "runs": 9,
        "images_per_second": 1000 / ms,
        "gflops": 50.0,
        "share_of_conv": 0.5,
        "memory": 2e7,
        "bytes": 16.3e6,
        "macs": 1e9,
        **other,
    }


def test_worker_answers_or_fails_with_its_last_line():
    setting = runner.Setting("mxnet", "float32", threads=1, batch=1)
    task = {"time": "nets", "nets": {}, "seconds": 0}
    answer = runner.in_process("benchmarks.worker", setting, task)
    assert answer["ms"] == {}
    assert answer["memory"] >= 0
    with pytest.raises(ValueError, match="mxnet float32: KeyError: 'sleep'"):
        runner.in_process("benchmarks.worker", setting, {"time": "sleep"})


def test_benchmark_times_folders_and_a_plain_convolution(
    call, deployed, work, workers_here, tmp_path
):
    options = ("--runtimes", "mxnet", "--precisions", "float32", "--batches", "1", "2")
    given = ("--seconds", "1", "--work", work)
    status, out, error = call(
        "benchmark", deployed, *options, *given, "--out", tmp_path / "b"
    )
    assert (status, error) == (0, "")
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    names = [(r["net"], r["batch"]) for r in result["rows"]]
    plain = "3x3 convolution"
    assert names == [(str(deployed), 1), (plain, 1), (str(deployed), 2), (plain, 2)]
    for found in result["rows"]:
        assert found["ms_quartiles"][0] <= found["ms"] <= found["ms_quartiles"][1]
        rate = found["images_per_second"] * found["ms"]
        assert rate == pytest.approx(1000 * found["batch"])
        work = 2 * found["macs"] * found["batch"] / found["ms"] / 1e6
        assert found["gflops"] == pytest.approx(work)
    assert [r["share_of_conv"] for r in result["rows"]][1::2] == [1, 1]
    assert result["rows"][1]["macs"] == 4 * 256 * 256 * 9 * 38 * 38
    assert "# Benchmark" in (tmp_path / "b" / "benchmark.md").read_text()
    assert cv2.imread(str(tmp_path / "b" / "benchmark.png")) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nowhere"], ["nowhere: no deployed folder, nor one of full, compact"]),
        (["--runtimes", "ncnn", "--precisions", "int8"], ["no runtime of --runtimes"]),
        (["--runtimes", "ncnn", "--batches", "4"], ["no runtime of --runtimes"]),
    ],
    ids=["net", "precision", "batch"],
)
def test_benchmark_names_what_is_wrong(call, tmp_path, options, words):
    assert_refused(call("benchmark", *options, "--out", tmp_path / "b"), *words)
    assert not (tmp_path / "b").exists()


def test_folder_without_a_format_is_refused(call, deployed, tmp_path):
    options = ("--runtimes", "opencv", "--precisions", "float32")
    refused = call("benchmark", deployed, *options, "--out", tmp_path / "b")
    assert_refused(refused, "has no format 'onnx'")


def test_ratios_are_of_one_setting():
    rows = [
        row("compact_s", 9),
        row("lite", 10),
        row("compact_s", 30, "ncnn"),
        row("full", 60, "ncnn"),
    ]
    lines = runtimes_page.ratios(rows, [("compact_s", "lite")]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["setting", "compact_s / lite"]
    assert cells[2:] == [
        ["mxnet, float32, 2 threads, batch 1", "0.90"],
        ["ncnn, float32, 2 threads, batch 1", ""],
    ]


def way(net, **quartiles):
    """Return a row of ways from an image to boxes, by low, middle and high times."""
    ends = {name: [low, high] for name, (low, _, high) in quartiles.items()}
    middles = {name: middle for name, (_, middle, _) in quartiles.items()}
    return {**row(net, 1.0), "ms": middles, "ms_quartiles": ends}


def test_ratio_of_times_that_overlap_is_marked():
    rows = [row("compact_s", 9.8), row("lite", 10.0)]
    assert "≈ 0.98" in runtimes_page.ratios(rows, [("compact_s", "lite")])
    assert "≈ 0.98" in runtimes_page.aims_table(rows, [])
    ways = [way("thin", head=(9, 10, 11), boxes=(10, 12, 13))]
    assert "≈ 1.20" in runtimes_page.aims_table([], ways)


def test_table_of_a_setting_holds_its_rows():
    rows = [row("compact", 20.0), row("3x3 convolution", 5.0), row("lite", 3.0, "ncnn")]
    text = runtimes_page.tables_of(rows)
    assert text.count("## ") == 2
    line = next(line for line in text.splitlines() if line.startswith("| compact"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == [
        "compact",
        "20.0",
        "19.9 to 20.2",
        "50.0",
        "50",
        "50 %",
        "20.0",
        "16.3",
    ]


def test_aims_are_judged_by_one_run():
    rows = [
        row(n, ms, r)
        for r in ("mxnet", "openvino")
        for n, ms in (
            ("compact_s", 9.0),
            ("lite", 10.0),
            ("compact", 20.0),
            ("full", 80.0),
        )
    ]
    macs = {"full": 4e9, "compact": 1e9}
    rows = [{**r, "macs": macs.get(r["net"], 5e8)} for r in rows]
    rows.append(row("compact_s", 99.0, threads=1))  # not what aims are for
    ways = [way("thin", head=(9.8, 10.0, 10.1), boxes=(11.9, 12.0, 12.1))]
    lines = runtimes_page.aims_table(rows, ways).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["compact_s / lite, time, openvino float32", "≤ 0.85", "0.90", "no"],
        ["compact_s / lite, time, mxnet float32", "≤ 1.00", "0.90", "yes"],
        ["full / compact, time over MACs, mxnet", "≥ 0.95", "1.00", "yes"],
        ["full / compact, time over MACs, openvino", "≥ 0.85", "1.00", "yes"],
        ["compact, speed of a plain convolution, mxnet", "≥ 0.80", "0.50", "no"],
        ["thin, boxes / head, mxnet float32", "≤ 1.15", "1.20", "no"],
    ]
    assert runtimes_page.aims_table([], []) == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("NET", "--threads", "1"), "needs --threads 2 and --batches 1"),
        (("NET", "--batches", "2"), "needs --threads 2 and --batches 1"),
        (("lite",), "times deployed folders; none is given"),
    ],
)
def test_images_that_would_not_be_used_are_refused(
    call, deployed, tmp_path, given, message
):
    nets = [deployed if one == "NET" else one for one in given]
    options = ("--runtimes", "mxnet", "--images", tmp_path, "--out", tmp_path / "b")
    assert_refused(call("benchmark", *nets, *options), message)
    assert not (tmp_path / "b").exists()


def test_images_that_cannot_be_read_end_it_before_the_timing(call, deployed, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    given = ("--images", tmp_path, "--out", tmp_path / "b")
    message = "none of its 1 images can be read"
    assert_refused(call("benchmark", deployed, *given), message)
    assert not (tmp_path / "b").exists()


def test_way_from_files_to_boxes_is_timed(call, deployed, work, workers_here, tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    for number in range(3):
        cv2.imwrite(str(place / f"{number}.png"), np.zeros((40, 60, 3), np.uint8))
    (place / "0.png").write_bytes(b"")
    options = ("--runtimes", "mxnet", "--precisions", "float32", "--seconds", "1")
    given = ("--images", place, "--count", "2", "--work", work)
    status, out, error = call(
        "benchmark", deployed, *options, *given, "--out", tmp_path / "b"
    )
    assert (status, error) == (0, "")
    assert "skipped: " in out
    assert "0.png" in out
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    (found,) = result["ways"]
    assert (found["images"], list(found["ms"])) == (
        2,
        ["head", "boxes", "files", "stream"],
    )
    assert min(found["ms"].values()) > 0
    page = (tmp_path / "b" / "benchmark.md").read_text()
    assert "## From an image to its boxes" in page
    assert "boxes / head, mxnet float32" in page
    assert "Time ratios" not in page  # of one net there are none
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "benchmark.md",
        "benchmark.png",
        "result.json",
    }


def test_mxnet_forms_compute_the_same():
    forms = mxnet_forms
    net, images = detector(size=96), mx.nd.random.normal(shape=(1, 3, 96, 96))
    wanted = mx.nd.concat(*forms.form_of(net, "raw")(images), dim=2).asnumpy()
    for form in list(forms.FORMS)[1:]:
        found = forms.form_of(net, form)(images)
        found = mx.nd.concat(*found, dim=2) if form == "folded" else found
        assert np.abs(found.asnumpy() - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_mxnet_benchmark_names_what_takes_time(call, workers_here, tmp_path):
    name, out = "ssd_300_mobilenet0.25", tmp_path / "b"
    options = ("--threads", "1", "--seconds", "1")
    status, page, error = call("benchmark_mxnet", name, *options, "--out", out)
    assert (status, error) == (0, "")
    assert page.strip() == (out / "mxnet.md").read_text().strip()
    result = json.loads((out / "result.json").read_text())
    assert list(result["forms"][name]) == list(mxnet_forms.FORMS)
    first, last = result["operators"][name].values()
    for spent in (first, last):
        assert spent["convolution"] > 0
    assert first["BatchNorm"] > 0 == last["BatchNorm"] == last["activation, sum"]


def test_mxnet_benchmark_refuses_an_unknown_net(call, tmp_path):
    refused = call("benchmark_mxnet", "nowhere", "--out", tmp_path / "b")
    assert_refused(refused, "nowhere: none of full, compact")
    assert not (tmp_path / "b").exists()


@pytest.mark.usefixtures("tiny_nets")
def test_teacher_benchmark_tells_what_is_beyond_the_teacher(
    call, monkeypatch, tmp_path
):
    monkeypatch.setattr(distillation, "FULL", "ssd_300_mobilenet0.25")
    options = ("--student", DETECTOR, "--losses", "scores", "channels")
    few = ("--batch", "1", "--rounds", "1", "--out", tmp_path / "b")
    status, out, error = call("benchmark_distillation", *options, *few)
    assert (status, error) == (0, "")
    (one,) = json.loads((tmp_path / "b" / "result.json").read_text())["sets"]
    ms = one["ms"]
    assert min(ms["both"], ms["labels"], ms["teacher"]) > 0
    beyond = 100 * ms["beyond"] / ms["teacher"]
    cells = [cell.strip() for cell in out.splitlines()[2].strip("|").split("|")]
    assert cells[0] == "scores, channels"
    assert cells[5:7] == [f"{beyond:+.1f} %", "yes" if beyond <= 15 else "no"]
    assert out.strip() in (tmp_path / "b" / "distillation.md").read_text()


def test_compression_page_has_two_columns_for_each_net():
    rows = {"float32": {"mAP": 0.845, "bytes": 8.59e6}}
    few = {**rows, "8 bits": {"mAP": 0.8, "bytes": 2.2e6}}
    table = compression.table_of({"a": few, "b": rows})
    lines = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()]
    assert lines[0][1:-1] == ["", "a, mAP", "a, MB", "b, mAP", "b, MB"]
    assert lines[2][1:-1] == ["float32", "84.5", "8.59", "84.5", "8.59"]
    assert lines[3][1:-1] == ["8 bits", "80.0", "2.20", "", ""]


PAGES = {  # what makes each committed page of its result
    ".": (runtimes_page.page_of, "benchmark.md"),
    "milliseconds": (runtimes_page.page_of, "benchmark.md"),
    "layers": (layer_times.page_of, "layers.md"),
    "mxnet": (mxnet_time.page_of, "mxnet.md"),
    "precision": (precision_page, "precision.md"),
    "distillation": (distillation.page_of, "distillation.md"),
    "policies": (policies_page.page_of, "policies.md"),
    "sparsity": (sparsity.page_of, "sparsity.md"),
    "training": (training_step.page_of, "training.md"),
}


@pytest.mark.parametrize("name", PAGES)
def test_committed_page_says_what_its_result_holds(name):
    page_of, page = PAGES[name]
    folder = ROOT / "docs" / "benchmark" / name
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert not result["modified"]
    assert (folder / page).read_text(encoding="utf-8") == page_of(result)
