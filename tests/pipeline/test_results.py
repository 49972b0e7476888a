from __future__ import annotations

import json

import pytest

from gluon_compress.pipeline.results import read_run, read_stage

GROUP = {
    "name": "conv0",
    "width": 8,
    "kept": 4,
    "frozen": "",
    "layers": ["conv0"],
    "macs_saved": 1,
    "bytes_saved": 1.0,
}
STAGE = {"stage": "full", "params": 1, "bytes": 4, "macs": 9, "top1": 0.5}
DETECTOR = {"mAP": None, "classes": {"a": None}, "metric": "voc07", "iou": 0.5}
TIME = {"median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0}
RUN = {
    "stages": {"full": STAGE},
    "latency": {"full": TIME},
    "data": {"root": "none", "test": {"images": 2}},
}


def written(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("more", "metric"), [({}, "top1"), ({"groups": [GROUP]}, "top1"), (DETECTOR, "mAP")]
)
def test_stage_is_read_as_it_was_written(tmp_path, more, metric):
    content = {**STAGE, **more, "anything": [1]}
    assert read_stage(written(tmp_path, content), "full", metric) == content


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"stage": "compact"}, "stage"),
        ({"macs": None}, "macs"),
        ({"params": -1}, "params"),
        ({"top1": "good"}, "top1"),
        ({"top1": 1.5}, "top1"),
        ({"groups": [{**GROUP, "width": "8"}]}, r"groups\[0\].width"),
        ({"groups": [{}]}, r"groups\[0\].name"),
        ({"classes": {}}, "metric"),
        ({**DETECTOR, "classes": {"a": "b"}}, "classes.a"),
        ({**DETECTOR, "metric": "voc12"}, "metric"),
    ],
)
def test_stage_without_what_a_report_needs_is_refused(tmp_path, change, key):
    path = written(tmp_path, {**STAGE, **change})
    with pytest.raises(ValueError, match=f"^{path}: {key}"):
        read_stage(path, "full", "top1")


def test_run_is_read_as_it_was_written(tmp_path):
    assert read_run(written(tmp_path, RUN), RUN["stages"]) == RUN


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"latency": {"full": {}}}, "latency.full.median_ms"),
        ({"data": None}, "data"),
        ({"stages": {"full": {**STAGE, "macs": 1}}}, "stages"),
        # The names become files of the report.
        ({"stages": {"../../elsewhere": STAGE}}, "stages"),
    ],
)
def test_run_of_other_stages_is_refused(tmp_path, change, key):
    path = written(tmp_path, {**RUN, **change})
    with pytest.raises(ValueError, match=f"^{path}: {key}"):
        read_run(path, RUN["stages"])
