"""``gluon-compress split``: the table, the chart, and both halves."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gluon_compress as gc
from center_net import small_detector
from gluon_compress import models
from gluon_compress.data.images import read_image
from gluon_compress.report import save_image
from gluon_compress.report.split_charts import split_chart
from gluon_compress.splitting import CutPoints, open_head


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "net"
    models.save(small_detector(), folder, "net")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.RandomState(0)
    for i in range(2):
        image = random.randint(0, 255, (40, 70, 3)).astype(np.uint8)
        save_image(image, folder / f"{i}.png")
    return folder


def test_the_table_and_the_chart(call, model, photos, tmp_path):
    chart = tmp_path / "cuts.png"
    status, out, _ = call("split", model, "--images", photos, "--chart", chart)
    assert status == 0
    assert "JPEG" in out
    assert all(point.name in out for point in gc.split(models.load(model)))
    assert read_image(chart).shape[0] > 100
    status, out, _ = call("split", model)
    assert "JPEG" not in out


def test_halves_are_written(call, model, photos, tmp_path):
    options = ("--at", "pooling0", "--bits", "4", "--coding", "deflate")
    forms = ("--head-formats", "mxnet", "--tail-formats", "mxnet")
    out = tmp_path / "halves"
    status, text, _ = call(
        "split", model, "--out", out, *options, *forms, "--images", photos
    )
    assert status == 0
    assert "pooling0: 16 x 4 x 8, 4 bits" in text
    stated = json.loads((out / "tail" / "manifest.json").read_text())["split"]
    assert (stated["bits"], stated["coding"]) == (4, "deflate")
    head = open_head(out / "head", runtime="mxnet")
    assert head.pair == stated["pair"]
    assert head.pair in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--at", "pooling0"), "--at"),
        (("--bits", "8"), "--bits"),
        (("--measured", "3"), "--measured"),
        (("--out", "new"), "at is None"),
        (("--out", "new", "--at", "nowhere"), "at is 'nowhere'"),
        (("--out", "new", "--at", "999"), "at is 999"),
        (("--out", "new", "--at", "1", "--filter", "none.npz"), "none.npz"),
        (("--images", "no_such_folder"), "no_such_folder"),
    ],
)
def test_bad_options_are_one_line(call, model, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    status, _, error = call("split", model, *options)
    assert status == 2
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_chart_replaces_no_other_picture(call, model, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    status, _, error = call("split", model, "--chart", tmp_path / "mine.png")
    assert status == 2
    assert "mine.png" in error
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_a_net_without_cut_points_has_no_chart(tmp_path):
    with pytest.raises(ValueError, match="needs at least one"):
        split_chart(CutPoints((), 0, 1), tmp_path / "x.png")
