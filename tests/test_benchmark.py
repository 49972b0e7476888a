from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from gluon_compress.edge import deploy
from refusals import assert_refused
from runtimes import detector


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "thin"
    deploy(detector(), folder)
    return folder


def row(net: str, ms: float, runtime: str = "mxnet", **other) -> dict:
    return {
        "net": net,
        "runtime": runtime,
        "precision": "float32",
        "threads": 2,
        "batch": 1,
        "ms": ms,
        "ms_quartiles": [ms - 1, ms + 2],
        "runs": 9,
        "images_per_second": 1000 / ms,
        "gflops": 50.0,
        "share_of_conv": 0.5,
        "memory": 2e7,
        "bytes": 16.3e6,
        "macs": 1e9,
        **other,
    }


def test_benchmark_times_folders_and_a_plain_convolution(call, deployed, tmp_path):
    options = ("--runtimes", "mxnet", "--precisions", "float32", "--batches", "1", "2")
    status, out, error = call(
        "benchmark", deployed, *options, "--seconds", "1", "--out", tmp_path / "b"
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


def test_ratios_are_of_one_setting(script):
    rows = [
        row("compact_s", 9),
        row("lite", 10),
        row("compact_s", 30, "ncnn"),
        row("full", 60, "ncnn"),
    ]
    lines = script("speed.page").ratios(rows, [("compact_s", "lite")]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["setting", "compact_s / lite"]
    assert cells[2:] == [
        ["mxnet, float32, 2 threads, batch 1", "0.90"],
        ["ncnn, float32, 2 threads, batch 1", ""],
    ]


def test_table_of_a_setting_holds_its_rows(script):
    rows = [row("compact", 20.0), row("3x3 convolution", 5.0), row("lite", 3.0, "ncnn")]
    text = script("speed.page").tables_of(rows)
    assert text.count("## ") == 2
    line = next(line for line in text.splitlines() if line.startswith("| compact"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == [
        "compact",
        "20.0",
        "19.0 to 22.0",
        "50.0",
        "50",
        "50 %",
        "20.0",
        "16.3",
    ]
