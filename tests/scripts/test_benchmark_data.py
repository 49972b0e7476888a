from __future__ import annotations

import json
import re

import pytest

from gluon_compress.data import make_toy


@pytest.mark.slow
def test_share_is_measured_and_written(call, tmp_path):
    make_toy(tmp_path / "toy", images=8)
    few = ("--batch-size", 2, "--turns", 1, "--steps", 1)
    model = ("--model", "ssd_300_mobilenet0.25", "--out", tmp_path / "out")
    status, output, _ = call("benchmark_data", "--data", tmp_path / "toy", *few, *model)
    assert status == 0
    assert re.search(r"images/s on real data, .* on a fixed batch: \d+%", output)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["share"] > 0
    assert result["images_per_second"] > 0
    assert result["hardware"]["cores"] >= 1
