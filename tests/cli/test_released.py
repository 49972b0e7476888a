"""Released models by name on the command line."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from gluon_compress.cli import released
from gluon_compress.zoo import get_model, list_models
from refusals import assert_refused

NAME = "ssd_300_resnet50_v1d_compact_s_bccd"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.RandomState(0).randint(0, 255, (40, 50, 3), np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def test_a_released_model_detects_by_its_name(call, tmp_path, image, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a folder without any model
    status, _, error = call("detect", NAME, image, "--out", "found")
    assert (status, error) == (0, "")
    listed = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert listed["images"][0]["file"].endswith("image.png")


def test_a_released_model_is_exported_by_its_name(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = call("export", NAME, "--out", "model")
    assert (status, error) == (0, "")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["name"] == NAME


def test_a_folder_comes_before_a_released_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert released.is_released(NAME)
    (tmp_path / NAME).mkdir()
    assert not released.is_released(NAME)


def test_a_runtime_needs_deployed_files(call, tmp_path, image):
    refused = call("detect", NAME, image, "--runtime", "ncnn", "--out", tmp_path / "o")
    assert_refused(refused, "--runtime ncnn", NAME, "deployed folder")


def test_a_classifier_detects_nothing(call, tmp_path, image):
    name = next(n for n in list_models(pretrained=True) if "imagenette" in n)
    refused = call("detect", name, image, "--out", tmp_path / "o")
    assert_refused(refused, name, "detector")


def test_a_name_that_is_neither_is_refused(call, tmp_path, image):
    refused = call("detect", "no_such_model", image, "--out", tmp_path / "o")
    assert_refused(refused, "no_such_model")


def test_the_net_is_the_released_one():
    own, other = released.load_net(NAME), get_model(NAME, pretrained=True)
    pairs = zip(own.collect_params().values(), other.collect_params().values())
    assert all((a.data() == b.data()).asnumpy().all() for a, b in pairs)
