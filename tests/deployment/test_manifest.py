from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from gluon_compress.deployment import manifest as manifests
from gluon_compress.storage.artifacts import checksums

ANCHORS = np.ones((7, 4), np.float32)
ENTRY = {
    "files": ["tiny-symbol.json", "tiny-0000.params"],
    "precision": "float32",
    "difference": 1e-6,
    "whole": ["tiny-whole-symbol.json", "tiny-whole-0000.params"],
    "whole_difference": 0,
}
RESIZE = {"larger": "area", "smaller": "cubic", "otherwise": "linear"}
COMMON = {
    "format": 1,
    "name": "tiny",
    "kind": "ssd-deployed",
    "input": {"name": "data", "shape": [1, 3, 300, 300]},
    "outputs": [{"name": "predictions", "shape": [1, 7, 8]}],
    "classes": ["a", "b", "c"],
    "formats": {"mxnet": ENTRY},
}
STDS, LIMITS = [0.1, 0.1, 0.2, 0.2], {"nms_thresh": 0.5, "nms_topk": 40, "post_nms": 9}
LIMITS["least_score"] = 0.02
# As this version writes it, and as it was before.
NOW = {
    **COMMON,
    "preprocess": {
        "height": 300,
        "width": 300,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": RESIZE,
    },
    "postprocess": {"kind": "ssd", "stds": STDS, **LIMITS},
}
BEFORE = {
    **COMMON,
    "input": {**COMMON["input"], "resize": RESIZE},
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "anchors": {
        "size": 300,
        "sizes": [60, 105],
        "ratios": [[1, 2, 0.5]],
        "steps": [16],
        "lite": True,
    },
    "decode": {"stds": STDS},
    "nms": LIMITS,
}


def write(folder, content: dict):
    """Write a folder whose manifest this is."""
    folder.mkdir()
    for file in ENTRY["files"] + ENTRY["whole"]:
        (folder / file).write_text(file)
    np.save(folder / "anchors.npy", ANCHORS)
    content = {**content, "files": checksums(folder)}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(params=[NOW, BEFORE], ids=["now", "before"])
def stated(request, tmp_path):
    folder = write(tmp_path / "edge", request.param)
    return folder, manifests.read(folder)


def test_manifests_of_earlier_versions_say_the_same(stated):
    folder, manifest = stated
    assert manifest.classes == ("a", "b", "c")
    assert (manifest.preprocess.height, manifest.preprocess.width) == (300, 300)
    assert manifest.preprocess.mean == (0.1, 0.2, 0.3)
    assert manifest.preprocess.std == (0.4, 0.5, 0.6)
    assert manifest.preprocess.interpolation.to_json() == RESIZE
    postprocess = manifests.read_postprocess(folder, manifest)
    np.testing.assert_array_equal(postprocess.anchors, ANCHORS)
    assert postprocess.settings.to_json() == {"kind": "ssd", "stds": STDS, **LIMITS}


def test_earlier_manifests_need_not_say_how_images_are_resized(tmp_path):
    content = {**BEFORE, "input": COMMON["input"]}
    manifest = manifests.read(write(tmp_path / "edge", content))
    assert manifest.preprocess.interpolation.to_json() == RESIZE


@pytest.mark.parametrize("content", [NOW, BEFORE], ids=["now", "before"])
def test_a_key_that_means_nothing_is_refused(tmp_path, content):
    content = {**content, "remark": "of the north gate"}
    with pytest.raises(ValueError, match="manifest.json: remark: no such key"):
        manifests.read(write(tmp_path / "edge", content))


MISSING = object()
FILES, ONE = "formats/mxnet/files", "formats.mxnet.files"
COMMON_ERRORS = [
    ("files", MISSING, "files: this key is missing"),
    ("formats", MISSING, "formats: this key is missing"),
    ("classes", "red", "classes is 'red'; allowed: "),
    ("classes", ["a", "a", "b"], "classes is .*; allowed: .*distinct"),
    ("formats", [], "formats is .*; allowed: an object"),
    ("formats/tflite", {}, "formats.*tflite.*; allowed: .*mxnet"),
    (FILES, "tiny-symbol.json", f"{ONE} is 'tiny-symbol.json'; allowed: a list"),
    (FILES, ENTRY["files"][::-1], f"{ONE} is .*; allowed: names that end in -symbol"),
    (FILES, [f"../{n}" for n in ENTRY["files"]], f"{ONE} is .* sha256 is in files"),
    ("files", {}, "files is .*; allowed: 'anchors.npy' among them"),
    ("files/tiny-0000.params", MISSING, f"{ONE} is .* whose sha256 is in files"),
    ("files/tiny-0000.params", {"bytes": 1}, "files.tiny.*sha256: .* missing"),
]


@pytest.mark.parametrize(
    ("content", "path", "value", "message"),
    [
        *((NOW, *row) for row in COMMON_ERRORS),
        (NOW, "preprocess/mean", [0.5], "preprocess.mean"),
        (NOW, "preprocess/std", [0.5, 0, 0.5], r"preprocess.std\[1\] is 0; allowed"),
        (NOW, "preprocess/size", 300, "preprocess.size: no such key; allowed: height"),
        (
            NOW,
            "input/shape",
            [1, 3, 512, 512],
            r"input.shape is .*; allowed: \[1",
        ),
        (NOW, "postprocess/kind", "yolo", "postprocess.kind is 'yolo'; allowed: ssd"),
        (NOW, "postprocess/stds", [1, 1], "postprocess.stds"),
        (NOW, "postprocess/nms_thresh", 7, "postprocess.nms_thresh is 7; allowed: a"),
        (BEFORE, "mean", MISSING, "mean: this key is missing"),
        (BEFORE, "nms", MISSING, "nms: this key is missing"),
        (BEFORE, "decode/stds", MISSING, "decode.stds: this key is missing"),
        (BEFORE, "nms/least_score", 1.5, "nms.least_score is 1.5; allowed: a number"),
        (BEFORE, "nms/nms_topk", -1, "nms.nms_topk is -1; allowed: a whole number"),
        (BEFORE, "nms/topk", 9, "nms.topk: no such key; allowed: nms_thresh"),
        (
            BEFORE,
            "input/shape",
            [1, 3, 512, 512],
            r"input.shape is .*; allowed: \[1",
        ),
        (BEFORE, "input/resize", {"larger": "linear"}, "input.resize is .*'area'"),
    ],
)
def test_manifest_that_states_what_cannot_be_is_refused(
    tmp_path, content, path, value, message
):
    folder = write(tmp_path / "edge", content)
    content = inner = copy.deepcopy(
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    )
    *places, last = path.split("/")
    for place in places:
        inner = inner[place]
    inner[last] = value
    if value is MISSING:
        del inner[last]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"edge/manifest.json: {message}") as error:
        manifests.read(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("classes", ["a", "b"], "classes"),
        ("outputs", [{"name": "predictions", "shape": [1, 6, 8]}], "anchors.npy"),
        ("outputs", [{"name": "scores", "shape": [1, 7, 8]}], "outputs"),
    ],
)
def test_outputs_that_the_postprocess_cannot_read_are_refused(
    tmp_path, key, value, place
):
    folder = write(tmp_path / "edge", {**NOW, key: value})
    with pytest.raises(ValueError, match=f"edge: {place}"):
        manifests.read_postprocess(folder, manifests.read(folder))
