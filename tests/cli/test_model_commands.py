"""Commands on model folders and deployed folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest

from gluon_compress import models
from gluon_compress.cli.detect import DETECT
from gluon_compress.cli.evaluate import precision_page
from refusals import assert_refused
from runtimes import detector

CLASSES = ("cat", "dog")
SIZE = 96
HALF = ("--most-broken", "0.5")  # of three images, one is broken


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a thin, untrained detector."""
    net = detector(CLASSES, size=SIZE)
    folder = tmp_path_factory.mktemp("models") / "thin"
    models.save(net, folder, "thin")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Return a data set in VOC layout: three images, one of them broken."""
    root = tmp_path_factory.mktemp("voc")
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    picture = np.random.RandomState(0).randint(0, 255, (90, 120, 3), np.uint8)
    for name in ("a", "b", "c"):
        cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), picture)
        (root / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>120</width><height>90</height></size><object>"
            "<name>cat</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>60</xmax>"
            "<ymax>60</ymax></bndbox></object></annotation>"
        )
    (root / "JPEGImages/b.jpg").write_bytes(b"not a picture")
    (root / "ImageSets/Main/test.txt").write_text("a\nb\nc\n")
    return root


def test_detect_draws_lists_and_skips(call, model, images, tmp_path):
    folder = shutil.copytree(images / "JPEGImages", tmp_path / "photos")
    (folder / "notes.txt").touch()
    (folder / ".hidden").touch()
    options = ("--out", tmp_path, "--threshold", "0.01")
    status, out, error = call("detect", model, folder, *options)
    assert (status, error) == (0, "")
    assert sum(
        line.startswith("skipped") and "b.jpg" in line for line in out.splitlines()
    )
    content = json.loads((tmp_path / "detections.json").read_text())
    assert [Path(e["file"]).name for e in content["images"]] == ["a.jpg", "c.jpg"]
    skipped = {Path(e["file"]).name: e["reason"] for e in content["skipped"]}
    no_image = "no image by its name (.jpg, .jpeg, .png)"
    assert skipped.pop("b.jpg").startswith("not a readable image")
    assert skipped == {"notes.txt": no_image}
    assert f"skipped {folder / 'notes.txt'}: {no_image}" in out
    found = content["images"][0]["detections"]
    assert {e["class"] for e in found} <= set(CLASSES)
    assert all(len(e["box"]) == 4 and e["score"] >= 0.01 for e in found)
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (360, 480, 3)


def test_detect_goes_through_slivers_and_names_that_are_no_text(
    call, model, images, tmp_path
):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "sliver.jpg"), np.zeros((5000, 1, 3), np.uint8))
    photo = (images / "JPEGImages" / "a.jpg").read_bytes()
    (folder / os.fsdecode(b"odd_\xff.jpg")).write_bytes(photo)
    (folder / os.fsdecode(b"odd_\xfe.jpg")).write_bytes(b"broken")
    assert call("detect", model, folder, "--out", tmp_path / "out")[0] == 0
    content = json.loads((tmp_path / "out" / "detections.json").read_text("utf-8"))
    found = [os.fsencode(e["file"]).rsplit(b"/")[-1] for e in content["images"]]
    assert sorted(found) == [b"odd_\xff.jpg", b"sliver.jpg"]
    (skipped,) = content["skipped"]
    assert os.fsencode(skipped["file"]).endswith(b"odd_\xfe.jpg")
    assert max(cv2.imread(str(tmp_path / "out" / "sliver.jpg")).shape) <= 5000


@pytest.mark.parametrize("place", ["detections.json", "a.jpg"])
def test_detect_names_the_file_that_it_cannot_write(
    call, model, images, tmp_path, place
):
    (tmp_path / "out" / place).mkdir(parents=True)
    options = ("--out", tmp_path / "out")
    status, _, error = call("detect", model, images / "JPEGImages" / "a.jpg", *options)
    assert status == 2
    target = tmp_path / "out" / place
    assert error == f"detect.py: error: {target}: Is a directory\n"


def test_detect_replaces_its_own_files_alone(call, model, images, tmp_path):
    given = ("detect", model, images / "JPEGImages" / "a.jpg", "--out", tmp_path)
    for _ in range(2):
        assert call(*given)[0] == 0
    for name in ("detections.json", "a.jpg"):
        (tmp_path / name).write_text('{"images": []}')
        assert_refused(call(*given), f"{tmp_path / name}: is another file")
        assert (tmp_path / name).read_text() == '{"images": []}'
        (tmp_path / name).unlink()
    (tmp_path / "pair.png").write_text("mine")
    pair = ("compare_detectors", model, model, *given[2:-1], tmp_path / "pair.png")
    assert_refused(call(*pair), f"{tmp_path / 'pair.png'}: is another file")


def test_detect_refuses_when_no_image_can_be_read(call, model, images, tmp_path):
    broken = images / "JPEGImages" / "b.jpg"
    refused = call("detect", model, broken, "--out", tmp_path / "out")
    assert_refused(refused, "none of the 1 images can be read")
    assert not (tmp_path / "out").exists()


def test_two_detectors_are_drawn_side_by_side(call, model, images, tmp_path):
    picture, folder = tmp_path / "pair.png", images / "JPEGImages"
    options = ("--out", picture, "--threshold", "0.01", "--limit", "2")
    status, out, error = call("compare_detectors", model, model, folder, *options)
    assert (status, error) == (0, "")
    assert out.count("skipped") == 1
    assert out.splitlines()[-1] == str(picture)
    drawn = cv2.imread(str(picture))
    first = drawn[60:410]  # below the legend and what each costs, above the name
    assert (first[:, 12:492] == first[:, 504:984]).all()
    assert drawn.shape[0] > 2 * 360


def test_detectors_of_other_classes_are_not_compared(call, model, images, tmp_path):
    other = detector(["dog"], size=SIZE)
    models.save(other, tmp_path / "other", "other")
    for second, options, told in (
        (tmp_path / "other", ["--out", tmp_path / "a.png"], "same classes"),
        (model, ["--out", tmp_path / "a.gif"], ".png"),
        (model, ["--out", tmp_path / "a.png", "--limit", "0"], "--limit"),
    ):
        folder = images / "JPEGImages"
        refused = call("compare_detectors", model, second, folder, *options)
        assert_refused(refused, told)
    assert not (tmp_path / "a.png").exists()


def test_evaluate_prints_and_writes_the_result(call, model, images, tmp_path):
    options = ("--out", tmp_path, *HALF)
    status, out, error = call("evaluate", model, "--data", images, *options)
    assert (status, error) == (0, "")
    assert "| mAP" in out
    assert "measured on 2 images; 1 are left out\n" in out
    assert f"skipped {images / 'JPEGImages' / 'b.jpg'}: not a readable image" in out
    content = json.loads((tmp_path / "result.json").read_text())
    assert 0 <= content["mAP"] <= 1
    assert content["classes"]["dog"] is None
    assert (content["metric"], content["iou"]) == ("voc07", 0.5)
    assert content["data"]["images"] + content["data"]["skipped"] == 3
    assert content["data"]["repairs"] == {}


def test_evaluate_takes_a_file_in_cocos_format(call, model, images, tmp_path):
    files = [
        {"id": n, "file_name": f"{n}.jpg", "width": 120, "height": 90} for n in "ac"
    ]
    box = {"category_id": 1, "bbox": [8, 8, 52, 52]}
    content = {
        "images": files,
        "annotations": [{"image_id": n, **box} for n in "ac"],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    root = shutil.copytree(images / "JPEGImages", tmp_path / "images").parent
    (root / "mine.json").write_text(json.dumps(content))
    figures = []
    for options in (
        ("--data", images, *HALF),
        ("--data", root, "--kind", "coco", "--split", "mine.json"),
    ):
        status, _, error = call("evaluate", model, *options, "--out", tmp_path / "out")
        assert (status, error) == (0, "")
        content = json.loads((tmp_path / "out" / "result.json").read_text())
        figures.append((content["mAP"], content["data"]["images"]))
    assert figures[0] == figures[1]


def test_evaluate_counts_repairs(call, model, images, tmp_path):
    shutil.copytree(images, tmp_path / "set")
    place = tmp_path / "set" / "Annotations" / "a.xml"
    place.write_text(place.read_text().replace("<xmax>60", "<xmax>600"))
    data = ("--data", tmp_path / "set", "--out", tmp_path, *HALF)
    status, out, error = call("evaluate", model, *data)
    assert (status, error) == (0, "")
    assert "repairs: clipped 1\n" in out
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["data"]["repairs"] == {"clipped": 1}


def test_evaluate_scales_boxes_of_resized_images_by_choice(
    call, model, images, tmp_path
):
    shutil.copytree(images, tmp_path / "set")
    for place in (tmp_path / "set" / "Annotations").iterdir():
        text = place.read_text()  # as if annotated at ten times the size
        place.write_text(re.sub("(</width>|</height>)", r"0\1", text))
    data = ("--data", tmp_path / "set", *HALF)
    assert_refused(call("evaluate", model, *data), "annotated", "--resized scale")
    status, out, _ = call("evaluate", model, *data, "--resized", "scale")
    assert status == 0
    assert "scaled 2" in out


@pytest.mark.parametrize("word", [("--others", "ignore"), ("--unknown", "skip")])
def test_evaluate_counts_what_it_ignores(call, model, images, tmp_path, word):
    shutil.copytree(images, tmp_path / "set")
    place = tmp_path / "set" / "Annotations" / "a.xml"
    place.write_text(place.read_text().replace("cat", "chair"))
    data = ("--data", tmp_path / "set", "--out", tmp_path, *HALF)
    status, out, error = call("evaluate", model, *data, *word)
    assert (status, error) == (0, "")
    assert "chair 1" in out
    content = json.loads((tmp_path / "result.json").read_text())["data"]
    assert content["ignored"] == {"objects": {"chair": 1}, "images": 1}
    assert content["absent"] == ["dog"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--most-broken", "0.3"], ["b.jpg", "1 of 3 images", "most_broken"]),
        (["--split", "none"], ["none.txt"]),
        (["--classes", "cat"], ["--classes: the model has 2"]),
        (["--classes", "owl", "dog"], ["cat", "owl", "--others ignore"]),
        (["--ctx", "gpu(99)"], ["gpu99", "GPUs"]),
    ],
)
def test_evaluate_names_what_is_wrong(call, model, images, options, words):
    assert_refused(call("evaluate", model, "--data", images, *options), *words)


def test_export_writes_the_same_net_again(call, model, tmp_path):
    status, out, error = call("export", model, "--out", tmp_path / "m", "--name", "new")
    assert (status, error) == (0, "")
    assert "new-symbol.json" in out
    image = mx.nd.array(np.random.RandomState(0).randn(1, 3, SIZE, SIZE))
    nets = models.load(model), models.load(tmp_path / "m")
    first, second = ([o.asnumpy() for o in net(image)] for net in nets)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


@pytest.fixture(scope="module")
def deployed(model, tmp_path_factory) -> Path:
    """Return a folder for edge runtimes of the same detector, for MXNet alone."""
    from gluon_compress.deployment import deploy

    folder = tmp_path_factory.mktemp("edge") / "thin"
    deploy(models.load(model), folder)
    return folder


def test_export_writes_formats_and_skips_what_is_no_image(
    call, model, images, tmp_path
):
    options = ("--formats", "mxnet", "int8", "--calibration", "naive")
    folder = ("--images", images / "JPEGImages", "--calibration-images", "3")
    status, out, error = call(
        "export", model, "--out", tmp_path / "e", *options, *folder
    )
    assert (status, error) == (0, "")
    assert "mxnet: differs by" in out
    assert sum("skipped" in line and "b.jpg" in line for line in out.splitlines()) == 1
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert set(manifest["formats"]) == {"mxnet", "int8"}
    assert manifest["formats"]["int8"]["images"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--formats", "tflite"], ["format 'tflite'; allowed: mxnet, onnx"]),
        (["--formats", "int8"], ["int8 needs images to calibrate on"]),
        (
            ["--formats", "mxnet", "--images", "nowhere"],
            ["nowhere: there is no such folder"],
        ),
        (["--images", "photos"], ["--images photos: only with --formats"]),
        (["--calibration", "naive"], ["--calibration naive: only with --formats"]),
        (["--calibration-images", "9"], ["--calibration-images 9: only with --for"]),
        (
            ["--formats", "mxnet", "onnx", "--calibration", "entropy"],
            ["--calibration entropy: only with the format int8 or onnx-int8"],
        ),
        (
            ["--formats", "mxnet", "--calibration-images", "9"],
            ["--calibration-images 9: only with the format int8 or onnx-int8"],
        ),
    ],
    ids=["format", "int8", "nowhere", "images", "naive", "count", "entropy", "few"],
)
def test_export_of_formats_names_what_is_wrong(call, model, tmp_path, options, words):
    assert_refused(call("export", model, "--out", tmp_path / "e", *options), *words)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("formats", [["--formats", "mxnet"], []], ids=["edge", "model"])
def test_export_replaces_no_folder_of_another_sort(
    call, model, deployed, tmp_path, formats
):
    there = tmp_path / "there"
    shutil.copytree(model if formats else deployed, there)
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    allowed = ["'ssd-deployed'", "'ssd'"][:: 1 if formats else -1]
    refused = call("export", model, "--out", there, *formats)
    assert_refused(refused, f"kind is {allowed[1]}; allowed: {allowed[0]}")
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before


def test_export_replaces_a_deployed_folder_whole(call, model, images, tmp_path):
    options = ("--images", images / "JPEGImages", "--formats")
    for formats in (["mxnet", "int8"], ["mxnet"]):
        done = call("export", model, "--out", tmp_path / "e", *options, *formats)
        assert (done[0], done[2]) == (0, "")
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert list(manifest["formats"]) == ["mxnet"]
    assert not list((tmp_path / "e").glob("*int8*"))


def test_evaluate_in_a_runtime_gives_what_gluon_gives(
    call, model, deployed, images, tmp_path
):
    found = {}
    for folder, options in ((model, []), (deployed, ["--runtime", "mxnet"])):
        out = tmp_path / folder.parent.name
        status, _, error = call(
            "evaluate", folder, "--data", images, *HALF, "--out", out, *options
        )
        assert (status, error) == (0, "")
        found[folder] = json.loads((out / "result.json").read_text())
    first, second = found.values()
    assert first["mAP"] == pytest.approx(second["mAP"], abs=1e-3)
    assert first["model"]["runtime"] == "gluon"
    assert second["model"]["runtime"] == "mxnet"


def test_runtimes_are_held_against_gluon(call, model, deployed, images, tmp_path):
    pair = ("--net", model, deployed)
    options = ("--data", images, *HALF, "--out", tmp_path / "out")
    status, output, error = call("evaluate_runtimes", *pair, *options)
    assert (status, error) == (0, "")
    assert "measured on 2 images; 1 are left out" in output
    (rows,) = json.loads((tmp_path / "out/result.json").read_text())["nets"].values()
    assert [row["runtime"] for row in rows] == ["gluon", "mxnet"]
    assert rows[0]["mAP"] == pytest.approx(rows[1]["mAP"], abs=1e-3)


@pytest.mark.parametrize(
    ("precision", "points", "met"),
    [
        ("float32", 0.1, "yes"),
        ("float32", -0.11, "no"),
        ("int8", -1.0, "yes"),
        ("int8", -1.1, "no"),
    ],
)
def test_page_says_whether_a_runtime_is_near_enough(precision, points, met):
    first = {"runtime": "gluon", "precision": "float32", "mAP": 0.75}
    row = {"runtime": "r", "precision": precision, "mAP": 0.75 + points / 100}
    data = {"root": "bccd", "split": "test"}
    result = {"nets": {"edge": [first, row]}, "metric": "voc07", "data": data}
    last = precision_page(result).splitlines()[-1]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells[:2] == ["r", precision]
    most = "0.1" if precision != "int8" else "1.0"
    assert cells[3:] == [f"{points:+.2f}", most, met]


def test_evaluate_gives_a_runtime_what_its_manifest_asks_for(
    call, deployed, images, tmp_path, monkeypatch
):
    from gluon_compress.data.images import read_image
    from gluon_compress.deployment import Predictor

    other = shutil.copytree(deployed, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    changes = {"mean": [0, 0.5, 1], "std": [1, 0.5, 2], "keep_ratio": True}
    manifest["preprocess"].update(changes)
    (other / "manifest.json").write_text(json.dumps(manifest))
    given, detect = [], Predictor.detect
    monkeypatch.setattr(
        Predictor, "detect", lambda self, x: given.append(x) or detect(self, x)
    )
    options = ("--runtime", "mxnet", "--data", images, *HALF)
    assert call("evaluate", other, *options)[0] == 0
    right = Predictor(other).preprocess(read_image(images / "JPEGImages" / "a.jpg"))[0]
    np.testing.assert_allclose(given[0][:1], right, atol=1e-6)


@pytest.mark.parametrize("name", ["evaluate", "detect"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtime", "tvm"], ["runtime 'tvm'; allowed: mxnet"]),
        (["--runtime", "opencv"], ["opencv reads the format onnx"]),
        (["--runtime", "mxnet", "--precision", "int8"], ["reads the format int8"]),
        (["--runtime", "mxnet", "--threads", "2"], ["OMP_NUM_THREADS"]),
        (
            ["--runtime", "mxnet", "--ctx", "gpu(1)"],
            ["--ctx gpu1: with --runtime"],
        ),
        (["--precision", "int8"], ["--precision int8: only with --runtime"]),
        (["--precision", "float32"], ["--precision float32: only with --runtime"]),
        (["--threads", "2"], ["--threads 2: only with --runtime"]),
        ([], ["'ssd-deployed'", "runtime", "mxnet, onnxruntime"]),
    ],
    ids=[
        "runtime",
        "format",
        "precision",
        "threads",
        "ctx",
        "int8",
        "float32",
        "number",
        "gluon",
    ],
)
def test_runtime_that_cannot_be_is_refused(
    call, deployed, images, tmp_path, name, options, words
):
    given = {
        "evaluate": ["--data", images],
        "detect": [images / "JPEGImages" / "a.jpg", "--out", tmp_path / "out"],
    }
    assert_refused(call(name, deployed, *given[name], *options), *words)


def test_detect_in_a_runtime_finds_what_gluon_finds(
    call, model, deployed, images, tmp_path
):
    found = []
    for folder, options in ((model, []), (deployed, ["--runtime", "mxnet"])):
        out = tmp_path / folder.parent.name
        places = (images / "JPEGImages", "--out", out, "--threshold", "0.3")
        assert call("detect", folder, *places, *options)[0] == 0
        content = json.loads((out / "detections.json").read_text())
        assert len(content["skipped"]) == 1
        found.append(content["images"][0]["detections"])
    assert len(found[0]) == len(found[1])


def test_export_refuses_a_checkpoint_that_does_not_fit(call, model, tmp_path):
    (tmp_path / "cut.ckpt").write_bytes(b"PK")
    options = ("--out", tmp_path / "m", "--checkpoint", tmp_path / "cut.ckpt")
    assert_refused(call("export", model, *options), "cut.ckpt")
    assert not (tmp_path / "m").exists()


def test_export_does_not_replace_its_own_source(call, model):
    assert_refused(call("export", model, "--out", model), "the model folder itself")


@pytest.mark.parametrize("name", ["detect", "evaluate", "export"])
def test_missing_model_is_named(call, images, tmp_path, name):
    options = {
        "detect": [images / "JPEGImages" / "a.jpg", "--out", tmp_path / "out"],
        "evaluate": ["--data", images],
        "export": ["--out", tmp_path / "out"],
    }
    refused = call(name, tmp_path / "lost", *options[name])
    assert_refused(refused, "lost/manifest.json: there is no such file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "half"])
def test_detect_names_a_wrong_threshold(capsys, value):
    with pytest.raises(SystemExit) as end:
        DETECT.parser().parse_args(["m", "i", "--out", "o", f"--threshold={value}"])
    assert end.value.code == 2
    assert f"'{value}'; allowed: a number from 0 to 1" in capsys.readouterr().err


def test_evaluate_compares_with_a_deployed_folder(
    call, model, deployed, images, tmp_path
):
    options = ("--deployed", deployed, "--data", images, *HALF)
    options = (*options, "--out", tmp_path / "out")
    assert call("evaluate", model, *options)[0] == 0
    assert (tmp_path / "out" / "precision.md").exists()
    refused = call("evaluate", model, "--deployed", deployed, "--data", images)
    assert_refused(refused, "--deployed", "--out")


def test_bench_times_a_model_and_every_runtime(call, model, deployed, tmp_path):
    for folder, runtime in ((model, "gluon"), (deployed, "mxnet")):
        out = tmp_path / runtime
        assert call("bench", folder, "--seconds", "1", "--out", out)[0] == 0
        (row,) = json.loads((out / "result.json").read_text())["rows"]
        assert (row["runtime"], row["precision"]) == (runtime, "float32")
        assert row["ms_quartiles"][0] <= row["ms"] <= row["ms_quartiles"][1]
    refused = call("bench", model, "--runtimes", "mxnet")
    assert_refused(refused, "--runtimes", "deployed")


def test_models_lists_what_has_weights(call):
    _, every, _ = call("models")
    _, trained, _ = call("models", "--pretrained")
    assert len(trained.splitlines()) < len(every.splitlines())
    assert "not trained" in every
    assert "not trained" not in trained
