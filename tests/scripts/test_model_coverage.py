from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from benchmarks import model_coverage, model_coverage_page
from gluon_compress.storage.atomic import read_json

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MODEL = {
    "kind": "classifier",
    "shape": [1, 3, 32, 32],
    "nodes": 40,
    "operators": {"Convolution": 4, "relu": 3},
    "groups": 5,
    "frozen": {"network output 0 (dense0)": 10, "softmax 'a' normalises": 3},
    "params": 1000,
    "prunable_params": 950,
    "macs": 2_000_000,
    "macs_left": 900_000,
    "not_halved": "",
    "error": 2e-7,
    "change": 0.5,
    "cpu_seconds": [0.1, 0.2, 0.3],
    "peak_mb": 200,
}
FOUND = {
    "models": {
        "resnet18_v1b": MODEL,
        "whole": {**MODEL, "macs_left": 1_500_000, "error": 3e-5},
        "broken": {"kind": "classifier", "failed": "ValueError: no symbol"},
        "net": {**MODEL, "kind": "SSD", "frozen": {"softmax 'b' normalises": 1}},
    },
    "hardware": {"cpu": "a processor", "cores": 1, "threads": 1},
    "versions": {"python": "3.11.0", "mxnet": "1.9.1"},
}


@pytest.fixture
def page() -> str:
    return model_coverage_page.page(FOUND)


def rows(page: str, title: str) -> list[list[str]]:
    """Return the cells of the table below a title, without its head."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_totals_count_what_was_traced_halved_and_equal(page):
    assert (
        "- Classifiers: 2 of 3 traced, 1 pruned to half of their MACs, 1 with masks "
        "equal to the slim net within 1e-05; the worst error is 3.0e-05."
    ) in page
    assert "- Bodies of GluonCV's SSD: 1 of 1 traced, 1 pruned to half" in page


def test_every_model_has_its_row(page):
    first, second = rows(page, "Classifiers")
    assert first[:7] == ["`resnet18_v1b`", "32", "40", "5", "95.0%", "0.002", "0.001"]
    assert first[7:] == ["2.0e-07", "0.10, 0.20, 0.30", "200"]
    assert second[7] == "**3.0e-05**"
    assert "- `broken`: ValueError: no symbol" in page


def test_reasons_are_counted_without_names_of_layers(page):
    assert rows(page, "Frozen channels") == [
        ["softmax normalises", "3", "7"],
        ["network output", "2", "20"],
    ]


def test_operators_are_counted_by_models(page):
    assert rows(page, "Operators") == [["`Convolution`", "3"], ["`relu`", "3"]]


def test_time_is_shown_for_each_node(page):
    (row,) = rows(page, "Time against size")
    assert row == ["`resnet18_v1b`", "40", "0.10", "0.20", "0.30", "0.60", "15.0"]


def test_other_page_is_refused(call, tmp_path):
    stored = tmp_path / "supported_models.json"
    stored.write_text(json.dumps(FOUND), encoding="utf-8")
    status, _, error = call("supported_models", "--check", "--out", tmp_path)
    assert (status, error.count("\n")) == (2, 1)
    assert "supported_models.md: is not what supported_models.json gives" in error


def test_page_is_made_from_what_is_stored(call, tmp_path):
    stored = tmp_path / "supported_models.json"
    stored.write_text(json.dumps(FOUND), encoding="utf-8")
    options = ("--out", tmp_path, "--models", "resnet18_v1b")
    assert call("supported_models", *options)[0] == 0  # known: nothing is measured
    assert json.loads(stored.read_text(encoding="utf-8")) == FOUND
    assert call("supported_models", "--check", "--out", tmp_path)[0] == 0


def test_unknown_model_is_refused(call, tmp_path):
    options = ("--models", "resnet19*", "--out", tmp_path)
    status, _, error = call("supported_models", *options)
    assert (status, error.count("\n")) == (2, 1)
    assert "no model is named 'resnet19*'; allowed: alexnet, " in error
    assert not list(tmp_path.iterdir())


def test_page_in_docs_is_made_from_the_results_beside_it(call):
    assert call("supported_models", "--check")[0] == 0


def test_kinds_of_models():
    kind_of = model_coverage.kind_of
    kinds = {
        "resnet50_v1d": "classifier",
        "cifar_resnet20_v1": "classifier",
        "ssd_512_resnet50_v1_coco": "SSD",
        "ssd_512_resnet50_v1_voc": "",
        "ssd_512_resnet101_v2_voc": "SSD",
        "yolo3_darknet53_coco": "YOLOv3",
        "center_net_dla34_dcnv2_coco": "CenterNet",
        "resnet50_v1_int8": "",
        "resnet50_v1b_kinetics400": "other",
        "ssd_300_resnet50_v1d": "own",
    }
    assert {name: kind_of(name) for name in kinds} == kinds


def test_usual_sizes():
    shape_of = model_coverage.shape_of
    sizes = {"resnet18_v1": 224, "inceptionv3": 299, "nasnet_4_1056": 331}
    sizes.update(ssd_300_vgg16_atrous_coco=300, yolo3_darknet53_coco=416)
    assert {name: shape_of(name)[2] for name in sizes} == sizes


def test_error_of_a_model_is_kept_in_one_line():
    def measure(name):
        raise ValueError(f"{name}\n  is wrong")

    found = model_coverage.in_fork(measure, "it")
    assert found == {"failed": "ValueError: it is wrong"}


def test_model_that_ends_the_process_is_told():
    found = model_coverage.in_fork(lambda name: os._exit(9), "it")
    assert re.match("the process ended without a word", found["failed"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Cannot decide type:UserWarning")  # by GluonCV
@pytest.mark.parametrize("name", ["cifar_resnet20_v1", "ssd_300_mobilenet0.25_coco"])
def test_models_are_measured(name):
    # Without a process of its own, so that coverage and debuggers see it.
    found = model_coverage.measure(name)
    assert set(found) == set(MODEL) - {"kind"}
    assert found["macs_left"] <= found["macs"] / 2
    assert found["prunable_params"] > 0.99 * found["params"]
    assert found["error"] < 1e-5 < found["change"]


def test_goals_are_met_by_what_is_stored():
    stored = read_json(ROOT / "docs" / "supported_models.json")["models"]
    kinds: dict = {}
    for name, model in stored.items():
        kinds.setdefault(model["kind"], {})[name] = model
    classifiers = kinds.pop("classifier")
    # MXNet's GroupNorm has no symbol.
    failed = {name for name, model in classifiers.items() if "failed" in model}
    assert failed == {"resnet50_v1b_gn", "resnet101_v1b_gn"}
    assert len(classifiers) - len(failed) == 130
    assert set(kinds) == {"SSD", "YOLOv3", "CenterNet", "own"}
    traced = [model for name, model in stored.items() if name not in failed]
    assert all(model["error"] < 1e-5 for model in traced)
    halved = [not model["not_halved"] for model in traced]
    assert sum(halved) >= 0.95 * len(halved)
