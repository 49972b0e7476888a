"""Compares the JavaScript of the page for browsers with Python, in Node.js."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from gluon_compress.data import Preprocess
from gluon_compress.data.images import MOST_PIXELS
from gluon_compress.data.preprocess import Interpolation
from gluon_compress.deployment import Predictor, deploy
from gluon_compress.deployment.formats import PAGE
from gluon_compress.postprocess import (
    POSTPROCESS,
    CenterNetPostprocess,
    RefineDetPostprocess,
    SoftmaxPostprocess,
    SSDPostprocess,
)
from gluon_compress.postprocess.centernet import CenterNetPostprocessSettings
from gluon_compress.postprocess.ssd import SSDPostprocessSettings
from runtimes import EVERY, detector

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="there is no node")
METHODS = ("area", "cubic", "linear", "nearest")
# Height and width before and after.
SIZES = [
    ((60, 90), (30, 45)),
    ((60, 90), (20, 18)),
    ((61, 83), (30, 47)),
    ((31, 29), (60, 58)),
    ((31, 29), (77, 41)),
    ((31, 80), (40, 40)),
    ((40, 40), (40, 40)),
    ((1, 1), (9, 7)),
    ((9, 7), (1, 1)),
]


def float32(array) -> dict:
    data = np.ascontiguousarray(array, "<f4").tobytes()
    return {"float32": base64.b64encode(data).decode()}


def bitmap(image: np.ndarray) -> dict:
    """Return an RGB image as a canvas gives it: RGBA."""
    alpha = np.full(image.shape[:2], 255, np.uint8)
    data = base64.b64encode(np.dstack([image, alpha]).tobytes()).decode()
    return {
        "data": {"bytes": data},
        "height": image.shape[0],
        "width": image.shape[1],
    }


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return soft patches under noise of single pixels."""
    random = np.random.RandomState(seed)
    patches = random.randint(0, 256, (4, 4, 3)).astype(np.uint8)
    soft = cv2.resize(patches, (width, height), interpolation=cv2.INTER_LINEAR)
    noise = random.randint(-40, 40, soft.shape)
    return np.clip(soft + noise, 0, 255).astype(np.uint8)


class Case(NamedTuple):
    """A call of a JavaScript function, and what Python returns instead."""

    name: str
    arguments: list
    expected: Any


def resizes() -> dict[str, Case]:
    cases = {}
    for method in METHODS:
        for before, after in SIZES:
            image = picture(*before)
            flag = getattr(cv2, f"INTER_{method.upper()}")
            expected = cv2.resize(image, after[::-1], interpolation=flag)
            name = f"resize-{method}-{before}-{after}"
            arguments = [bitmap(image), *after, method]
            cases[name] = Case("resize", arguments, expected)
    return cases


PREPROCESSES = {
    "stretched": Preprocess(height=30, width=40),
    "fitted": Preprocess(height=30, width=40, keep_ratio=True),
    "cropped": Preprocess.centre_crop(30, 40),
    "nearest": Preprocess(
        height=30,
        width=40,
        mean=(0.1, 0, 0.3),
        std=(1, 0.5, 0.2),
        interpolation=Interpolation(
            larger="nearest", smaller="nearest", otherwise="nearest"
        ),
    ),
}


def preparations() -> dict[str, Case]:
    cases = {}
    for kind, preprocess in PREPROCESSES.items():
        for size in ((70, 90), (20, 25), (90, 20), (7, 300), (30, 40), (1, 1)):
            image = picture(*size)
            arguments = [bitmap(image), preprocess.to_json()]
            cases[f"prepare-{kind}-{size}"] = Case(
                "prepare", arguments, preprocess(image)
            )
    return cases


def predictions(anchors: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Return random outputs of an SSD, many of whose boxes overlap."""
    random = np.random.RandomState(seed)
    return random.normal(0, 1.5, (len(anchors), classes + 5)).astype(np.float32)


def ssd_cases() -> dict[str, Case]:
    random = np.random.RandomState(0)
    anchors = random.uniform(20, 90, (600, 4)).astype(np.float32)
    usual = SSDPostprocessSettings()
    extreme = predictions(anchors, 3, 4)
    extreme[:40, -4:] = np.repeat([1e4, -1e4, np.nan, np.inf], 10)[:, None]
    rows = {
        "usual": (3, usual, predictions(anchors, 3, 1)),
        "one": (1, usual, predictions(anchors, 1, 2)),
        "few": (20, SSDPostprocessSettings(nms_topk=50, post_nms=7), None),
        "strict": (3, SSDPostprocessSettings(least_score=0.9), None),
        "all": (3, SSDPostprocessSettings(least_score=0, nms_thresh=0.9), None),
        "none": (3, usual, predictions(anchors, 3, 1) * 0 + [9, 0, 0, 0, 0, 0, 0, 0]),
        "extreme": (3, usual, extreme),
        "undefined": (3, usual, predictions(anchors, 3, 1) * np.float32(np.nan)),
    }
    cases = {}
    for name, (classes, settings, given) in rows.items():
        values = predictions(anchors, classes, 3) if given is None else given
        values = values.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = SSDPostprocess(anchors, settings).decode(
                {"predictions": values[None]}
            )
        arguments = [float32(values), float32(anchors), classes, settings.to_json()]
        cases[f"ssd-{name}"] = Case("ssd", arguments, expected)
    return cases


def refinedet_case() -> Case:
    """Two steps; some anchors are moved to nowhere, many are taken for background."""
    random = np.random.RandomState(5)
    anchors = random.uniform(20, 90, (600, 4)).astype(np.float32)
    values = np.hstack([random.normal(0, 3, (600, 6)), predictions(anchors, 3, 1)])
    values = values.astype(np.float32)
    values[::3, 0] += 9
    values[:40, 2:6] = np.repeat([1e4, -1e4, np.nan, np.inf], 10)[:, None]
    postprocess = RefineDetPostprocess(anchors)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = postprocess.decode({"predictions": values[None]})
    arguments = [float32(values), float32(anchors), 3, postprocess.state()[0]]
    return Case("refinedet", arguments, expected)


def center_maps(seed: int, spread: float = 3) -> dict[str, np.ndarray]:
    """Return random maps of a detector without anchors, with some ties."""
    random = np.random.RandomState(seed)
    heat = random.normal(-2, spread, (1, 3, 9, 11)).round(1)
    others = [random.normal(mean, 2, (1, 2, 9, 11)) for mean in (5, 0)]
    maps = zip(("heat_map", "box_sizes", "center_offsets"), (heat, *others))
    return {name: values.astype(np.float32) for name, values in maps}


def peak_cases() -> dict[str, Case]:
    usual = CenterNetPostprocessSettings()
    extreme, flat = center_maps(2), center_maps(3)
    extreme["heat_map"][0, 0, :4, :4] = [np.nan, np.inf, -np.inf, 100]
    extreme["box_sizes"][0, 0, 4] = np.inf
    flat["heat_map"][:] = 1
    rows = {
        "usual": (usual, center_maps(1)),
        "few": (CenterNetPostprocessSettings(peaks=7, stride=8), center_maps(1)),
        "strict": (CenterNetPostprocessSettings(least_score=0.9), center_maps(1)),
        "all": (CenterNetPostprocessSettings(least_score=0), center_maps(4, 20)),
        "extreme": (usual, extreme),
        "flat": (CenterNetPostprocessSettings(peaks=400), flat),
    }
    cases = {}
    for name, (settings, maps) in rows.items():
        expected = CenterNetPostprocess(settings).decode(maps)
        given = {name: float32(values) for name, values in maps.items()}
        arguments = [given, {"rows": 9, "columns": 11}, settings.to_json()]
        cases[f"peaks-{name}"] = Case("peaks", arguments, expected)
    pair = center_maps(5, 20), center_maps(6, 20)
    arguments = [{n: float32(v) for n, v in maps.items()} for maps in pair]
    expected = CenterNetPostprocess().averaged(*pair)
    cases["averaged"] = Case("averaged", [*arguments, 11], expected)
    return cases


def softmax_cases() -> dict[str, Case]:
    cases = {}
    for classes, top_k in ((10, 5), (3, 5), (1, 1)):
        scores = np.random.RandomState(classes).normal(0, 30, (1, classes))
        scores = scores.astype(np.float32)
        expected = SoftmaxPostprocess(top_k).decode({"class_scores": scores})
        arguments = [float32(scores), top_k]
        cases[f"softmax-{classes}-{top_k}"] = Case("topClasses", arguments, expected)
    return cases


def npy(array) -> dict:
    file = io.BytesIO()
    np.save(file, array)
    return {"buffer": base64.b64encode(file.getvalue()).decode()}


ARRAY = np.random.RandomState(0).normal(size=(5, 4)).astype(np.float32)
OTHER_FILES = {
    "float64": npy(ARRAY.astype(np.float64)),
    "columns": npy(np.asfortranarray(ARRAY)),
    "text": {"buffer": base64.b64encode(b"<!DOCTYPE html><html></html>").decode()},
    "empty": {"buffer": ""},
}
CASES = {
    **resizes(),
    **preparations(),
    **ssd_cases(),
    "refinedet-usual": refinedet_case(),
    **peak_cases(),
    **softmax_cases(),
    "npy": Case("readNpy", [npy(ARRAY), "a.npy"], ARRAY),
    **{f"npy-{k}": Case("readNpy", [v, "a.npy"], None) for k, v in OTHER_FILES.items()},
    "kind": Case("decoderOf", [{"postprocess": {"kind": "heat_map"}}], None),
    "prototype": Case("decoderOf", [{"postprocess": {"kind": "toString"}}], None),
    "no-kind": Case("decoderOf", [{}], None),
    "method": Case("resize", [bitmap(picture(4, 4)), 2, 2, "lanczos"], None),
    "narrow": Case(
        "prepare",
        [
            {"height": 1, "width": 90000, "data": {"bytes": ""}},
            PREPROCESSES["cropped"].to_json(),
        ],
        None,
    ),
    "misfit": Case("ssd", [float32([0] * 8), float32([0] * 8), 3, {}], None),
    **{
        f"decoder-{kind}": Case("decoderOf", [{"postprocess": {"kind": kind}}], None)
        for kind in POSTPROCESS
    },
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    """Return what JavaScript returns in each case, from one process."""
    file = tmp_path_factory.mktemp("node") / "cases.json"
    given = [{"name": c.name, "arguments": c.arguments} for c in CASES.values()]
    file.write_text(json.dumps(given), encoding="utf-8")
    script = Path(__file__).with_name("web.mjs")
    done = subprocess.run(
        [str(NODE), str(script), str(PAGE), str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout)))


def named(beginning: str) -> list[str]:
    return [name for name in CASES if name.startswith(f"{beginning}-")]


def array_of(value: dict) -> np.ndarray:
    (kind, data), *_ = value.items()
    dtype = {"float32": "<f4", "bytes": np.uint8}[kind]
    return np.frombuffer(base64.b64decode(data), dtype)


@needs_node
@pytest.mark.parametrize("name", named("resize"))
def test_resize_does_as_opencv(answers, name):
    expected = CASES[name].expected
    pixels = array_of(answers[name]["value"]).reshape(expected.shape)
    off = np.abs(pixels.astype(int) - expected)
    # OpenCV sums area and cubic in float32, in an order of its own.
    exact = CASES[name].arguments[-1] in ("linear", "nearest")
    assert off.max() <= (0 if exact else 1)
    assert (off > 0).mean() < 0.01


@needs_node
@pytest.mark.parametrize("name", named("prepare"))
def test_prepare_does_as_preprocess(answers, name):
    expected, placement = CASES[name].expected
    value = answers[name]["value"]
    stated = value["placement"]
    assert stated == {key: getattr(placement, key) for key in stated}
    prepared = array_of(value["input"]).reshape(expected.shape)
    level = 1 / (255 * min(CASES[name].arguments[1]["std"]))
    off = np.abs(prepared - expected)
    assert off.max() < 1.01 * level
    assert (off > 1e-6).mean() < 0.01


@needs_node
@pytest.mark.parametrize("name", [*named("ssd"), *named("refinedet"), *named("peaks")])
def test_boxes_are_those_of_the_postprocess(answers, name):
    ids, scores, boxes = (array[0] for array in CASES[name].expected)
    valid = ids[:, 0] >= 0
    rows = answers[name]["value"]
    assert [row["id"] for row in rows] == ids[valid, 0].astype(int).tolist()
    found = [row["score"] for row in rows]
    np.testing.assert_allclose(found, scores[valid, 0], rtol=1e-5)
    corners = np.array([row["box"] for row in rows]).reshape(-1, 4)
    np.testing.assert_allclose(corners, boxes[valid], rtol=1e-5, atol=1e-3)


@needs_node
def test_mirrored_outputs_are_averaged_as_in_the_postprocess(answers):
    found, expected = answers["averaged"]["value"], CASES["averaged"].expected
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        array = array_of(found[name]).reshape(values.shape)
        np.testing.assert_allclose(array, values, rtol=1e-4, atol=1e-5)


def test_ssd_cases_are_not_trivial():
    counts = {name: int((CASES[name].expected[0] >= 0).sum()) for name in named("ssd")}
    assert counts.pop("ssd-none") == counts.pop("ssd-undefined") == 0
    assert counts["ssd-few"] == 7
    assert all(count > 0 for count in counts.values())


@needs_node
@pytest.mark.parametrize("name", named("softmax"))
def test_top_classes_do_as_postprocess(answers, name):
    ids, shares = (array[0] for array in CASES[name].expected)
    rows = answers[name]["value"]
    assert [row["id"] for row in rows] == ids.tolist()
    found = [row["score"] for row in rows]
    np.testing.assert_allclose(found, shares, rtol=1e-5, atol=1e-12)


@needs_node
def test_read_npy_returns_the_values(answers):
    values = array_of(answers["npy"]["value"])
    np.testing.assert_array_equal(values, ARRAY.ravel())


@needs_node
@pytest.mark.parametrize("name", [f"npy-{kind}" for kind in OTHER_FILES])
def test_read_npy_names_a_file_it_cannot_read(answers, name):
    assert answers[name]["error"].startswith("a.npy: ")


@needs_node
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kind", '"heat_map"'),
        ("prototype", '"toString"'),
        ("no-kind", '"undefined"'),
        ("method", '"lanczos"'),
        ("narrow", "90000 × 1 pixels is too narrow"),
        ("misfit", "anchors.npy"),
    ],
)
def test_what_cannot_be_decoded_is_said_in_words(answers, name, words):
    assert words in answers[name]["error"]


ONE_STAGE = [
    kind for kind in POSTPROCESS if not hasattr(POSTPROCESS[kind], "later_stages")
]


@needs_node
@pytest.mark.parametrize("kind", ONE_STAGE)
def test_every_postprocess_of_one_graph_has_a_decoder(answers, kind):
    decoder = answers[f"decoder-{kind}"]["value"]
    assert decoder["boxes"] == POSTPROCESS[kind].finds_boxes
    assert decoder["arrays"] == list(POSTPROCESS[kind].arrays)


def test_page_reads_images_as_large_as_python_does():
    source = (PAGE / "preprocess.js").read_text(encoding="utf-8")
    (power,) = re.findall(r"MOST_PIXELS = 2 \*\* (\d+)", source)
    assert 2 ** int(power) == MOST_PIXELS


def test_runtime_of_the_page_is_pinned():
    pinned = json.loads((PAGE / "package.json").read_text())["dependencies"]
    assert list(pinned) == ["onnxruntime-web"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned["onnxruntime-web"])


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Return a folder that was written for browsers alone."""
    if "web" not in EVERY:
        pytest.skip("onnx is not installed")
    folder = tmp_path_factory.mktemp("web") / "page"
    deploy(detector(), folder, "tiny", formats=["web"])
    return folder


def test_folder_holds_the_page_and_its_model(page):
    manifest = json.loads((page / "manifest.json").read_text())
    stated = manifest["formats"]["web"]
    assert stated["files"] == ["tiny.onnx"]
    assert stated["precision"] == "float32"
    assert set(stated["page"]) == {path.name for path in PAGE.iterdir()}
    files = {path.name for path in page.iterdir()} - {"manifest.json"}
    assert (
        files == {"anchors.npy", "tiny.onnx", *stated["page"]} == {*manifest["files"]}
    )
    for name in stated["page"]:
        assert (page / name).read_bytes() == (PAGE / name).read_bytes()


def test_predictor_runs_the_model_of_a_page(page):
    image = picture(60, 90)
    for runtime in ("onnxruntime", "opencv"):
        ids, _, _ = Predictor(page, runtime)([image])[0]
        assert len(ids) > 0


@pytest.mark.parametrize("name", ["index.html", "page.js", "package.json"])
def test_altered_page_is_refused(page, tmp_path, name):
    folder = tmp_path / "page"
    shutil.copytree(page, folder)
    with open(folder / name, "a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=f"{name}: altered"):
        Predictor(folder, "onnxruntime")


def test_page_that_lacks_a_listed_file_is_refused(page, tmp_path):
    folder = tmp_path / "page"
    shutil.copytree(page, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["page.js"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"formats\.web\.files"):
        Predictor(folder, "onnxruntime")
