from __future__ import annotations

import json

import pytest

STAGE = {
    "params": 2_000_000,
    "bytes": 8_000_000,
    "macs": 10**9,
    "mAP": 0.75,
    "metric": "voc07",
    "iou": 0.5,
    "classes": {"cat": 0.5, "dog": 1.0},
}
COMPACT = {**STAGE, "macs": 25 * 10**7, "mAP": 0.7}
RESULTS = {
    "stages": {"full": STAGE, "compact": COMPACT},
    "latency": {"full": {"median_ms": 20.0}, "compact": {"median_ms": 10.0}},
    "data": {"root": "pets", "test": {"images": 7, "skipped": 0}},
}


@pytest.fixture
def finished(tmp_path):
    """Return the folder of a run with its results, one plan and one picture."""
    run = tmp_path / "run"
    for name in ("1_prune", "report"):
        (run / name).mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(RESULTS))
    (run / "1_prune" / "plan.json").write_text("{}")
    (run / "report" / "curves.png").write_bytes(b"picture")
    return run


def test_run_is_put_where_readers_look(call, finished, tmp_path):
    root = tmp_path / "project"
    status, output, _ = call("publish", finished, "--name", "pet", "--root", root)
    assert status == 0
    assert output.strip() == str(root / "docs" / "pet" / "README.md")
    stored = json.loads((root / "model_zoo" / "pet" / "result.json").read_text())
    assert stored == RESULTS
    assert (root / "model_zoo" / "pet" / "plan_1_prune.json").exists()
    assert (root / "docs" / "pet" / "curves.png").read_bytes() == b"picture"


def test_page_is_made_from_the_results(call, finished, tmp_path):
    call("publish", finished, "--name", "pet", "--root", tmp_path)
    page = (tmp_path / "docs" / "pet" / "README.md").read_text()
    assert "25.0% of the full one's multiply-accumulates" in page
    assert "7 test images of pets" in page
    assert "![curves](curves.png)" in page


def test_unfinished_run_is_refused(call, finished, tmp_path):
    (finished / "report" / "curves.png").unlink()
    status, _, error = call("publish", finished, "--name", "pet", "--root", tmp_path)
    assert status == 2
    assert "no pictures" in error
    assert not (tmp_path / "docs").exists()
