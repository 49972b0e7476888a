"""Runs every program of docs/deploy.md."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from center_net import small_detector
from gluon_compress.data import Preprocess
from gluon_compress.deployment import Predictor, deploy
from images import picture
from runtimes import EVERY, classifier, detector

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = {
    text.split("\n", 1)[0].lstrip("# "): text
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
RUNS = {  # the format that a program reads, and the predictor of the same
    "gluon_compress": ("onnx-dynamic", "onnxruntime", "float32"),
    "onnxruntime": ("onnx", "onnxruntime", "float32"),
    "openvino": ("openvino", "openvino", "float32"),
    "ncnn": ("ncnn", "ncnn", "float32"),
    "opencv": ("onnx", "opencv", "float32"),
    "mxnet": ("mxnet", "mxnet", "float32"),
    "mxnet-int8": ("int8", "mxnet", "int8"),
}
# Width and height of photos, by how they compare with an input of 300 x 300.
PREPROCESS = Preprocess(height=300, width=300)
PHOTOS = {"larger": (640, 480), "smaller": (200, 150), "otherwise": (240, 400)}


def photo(width: int, height: int) -> np.ndarray:
    """Return soft patches under noise of single pixels, which a resize must treat."""
    patches = cv2.resize(picture(0, 3)[::6, ::6], (width, height)).astype(int)
    noise = np.random.RandomState(0).randint(-60, 60, patches.shape)
    return np.clip(patches + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders as the page has them: edge/, decode.py, and each its own photo.jpg."""
    root, found = tmp_path_factory.mktemp("page"), {}
    for name, size in PHOTOS.items():
        found[name] = root / name
        found[name].mkdir()
        cv2.imwrite(str(found[name] / "photo.jpg"), photo(*size))
        (found[name] / "decode.py").write_text(BLOCKS["decode.py"], encoding="utf-8")
        (found[name] / "edge").symlink_to(root / "edge")
        (found[name] / "edge-classifier").symlink_to(root / "edge-classifier")
    files = [place / "photo.jpg" for place in found.values()]
    images, _ = PREPROCESS.read(files)
    deploy(responsive(images), root / "edge", "detector", formats=EVERY, images=images)
    if "onnx" in EVERY:
        formats = ["onnx", "onnx-dynamic"]
        deploy(classifier(), root / "edge-classifier", formats=formats)
    return found


def responsive(images: np.ndarray):
    """Return a detector whose scores depend on every pixel of such images.

    Its BatchNorm has seen them; with made-up statistics constants outweigh them.
    """
    net = detector()
    for _ in range(10):
        with autograd.record():
            scores, deltas, _ = net(mx.nd.array(images))
            total = scores.sum() + deltas.sum()
        total.backward()  # which is when MXNet takes note of the statistics
    return net


@pytest.fixture(scope="module")
def place(places):
    return places["larger"]


def lines_of(text: str) -> list[tuple]:
    rows = [line.split() for line in text.splitlines()]
    return [(row[0], *map(float, row[1:])) for row in rows if len(row) == 6]


@pytest.fixture
def shown_by(monkeypatch, capsys):
    """Return a function that runs a program of the page; what the program prints."""

    def run_program(name: str, place: Path) -> str:
        program = place / "program.py"
        program.write_text(BLOCKS[name], encoding="utf-8")
        capsys.readouterr()
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.chdir(place)
            patch.syspath_prepend(place)
            patch.delitem(sys.modules, "decode", raising=False)
            runpy.run_path(str(program))
            sys.modules.pop("decode", None)
        return capsys.readouterr().out

    return run_program


def expected(place, runtime: str = "mxnet", precision: str = "float32") -> list[tuple]:
    predictor = Predictor(place / "edge", runtime, precision=precision)
    image = cv2.imread(str(place / "photo.jpg"))[..., ::-1]
    return [
        (predictor.classes[i], float(score), *map(float, box))
        for i, score, box in zip(*predictor([image])[0])
    ]


def assert_same_boxes(found, right, *, scores: float, pixels: float) -> None:
    """Check that each box is there; as good as equal scores may change places."""
    assert len(found) == len(right) > 10
    left = list(found)
    for name, score, *box in right:
        own = min(
            (row for row in left if row[0] == name),
            key=lambda row: np.abs(np.subtract(row[2:], box)).max(),
        )
        np.testing.assert_allclose(own[1], score, rtol=0, atol=scores)
        np.testing.assert_allclose(own[2:], box, rtol=0, atol=pixels)
        left.remove(own)


def test_page_has_a_program_for_each_runtime():
    assert set(BLOCKS) == {*RUNS, "decode.py", "classifier", "classifier-onnxruntime"}


@pytest.mark.parametrize("name", RUNS)
def test_program_finds_what_the_predictor_finds(shown_by, place, name):
    written, *run = RUNS[name]
    if written not in EVERY:
        pytest.skip(f"what writes {written} is not installed")
    right = expected(place, *run)
    assert_same_boxes(lines_of(shown_by(name, place)), right, scores=1e-3, pixels=0.25)


@pytest.mark.parametrize("size", PHOTOS)
def test_program_prepares_what_the_package_prepares(places, size, monkeypatch):
    monkeypatch.chdir(places[size])
    prepare = runpy.run_path("decode.py")["prepare"]
    image = cv2.imread("photo.jpg")
    np.testing.assert_array_equal(prepare(image), PREPROCESS(image[..., ::-1])[0])


def test_manifest_and_page_say_how_images_are_resized(place):
    manifest = json.loads((place / "edge" / "manifest.json").read_text())
    rule = manifest["preprocess"]["interpolation"]
    assert rule == {"larger": "area", "smaller": "cubic", "otherwise": "linear"}
    assert "`interpolation`" in PAGE


@pytest.mark.skipif("openvino" not in EVERY, reason="openvino is not installed")
def test_openvino_computes_in_float32_whatever_the_cpu_has(place):
    asked = 'print(net.get_property("INFERENCE_PRECISION_HINT").get_type_name())'
    command = [sys.executable, "-W", "ignore", "-c", f"{BLOCKS['openvino']}\n{asked}"]
    shown = subprocess.check_output(command, cwd=place, text=True)
    assert shown.splitlines()[-1] == "f32"


@pytest.mark.skipif("onnx" not in EVERY, reason="onnx is not installed")
def test_programs_classify_as_the_net_does(shown_by, place):
    names = ("classifier", "classifier-onnxruntime")
    shown = [shown_by(name, place) for name in names]
    lines, others = ([line.split() for line in text.splitlines()] for text in shown)
    assert [name for name, _ in lines] == [name for name, _ in others]
    shares, other_shares = ([float(row[1]) for row in rows] for rows in (lines, others))
    np.testing.assert_allclose(shares, other_shares, atol=2e-4)
    assert sorted(name for name, _ in lines) == ["blue", "green", "red"]


def with_earlier_manifest(edge: Path, folder: Path) -> Path:
    """Return a copy of a deployed folder with the manifest of earlier versions."""
    shutil.copytree(edge, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    preprocess, postprocess = manifest.pop("preprocess"), manifest.pop("postprocess")
    del postprocess["kind"]
    manifest["input"]["resize"] = preprocess["interpolation"]
    manifest.update(
        {key: preprocess[key] for key in ("mean", "std")},
        anchors={"size": preprocess["height"]},
        decode={"stds": postprocess.pop("stds")},
        nms=postprocess,
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_programs_read_folders_of_earlier_versions(shown_by, place, program, tmp_path):
    with_earlier_manifest(place / "edge", tmp_path / "edge")
    for name in ("photo.jpg", "decode.py"):
        shutil.copyfile(place / name, tmp_path / name)
    right = expected(place)
    assert expected(tmp_path) == right
    shown = lines_of(shown_by("mxnet", tmp_path))
    assert_same_boxes(shown, right, scores=1e-3, pixels=0.25)
    done = run(program, *whole_of(tmp_path), "0.02")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(program, *whole_of(place), "0.02").stdout


def built(folder: Path) -> Path:
    """Build detect.c by the page's own command."""
    lines = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1]
    script = lines[: lines.index("MXNET_SUBGRAPH_VERBOSE")]
    script = script.replace("docs/", f"{ROOT}/docs/").replace(
        "-o detect", "-o ./detect"
    )
    place = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    script = script.replace("gcc", "gcc -Wall -Wextra -Werror")
    subprocess.run(["bash", "-ec", script], cwd=folder, env=place, check=True)
    return folder / "detect"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    return built(tmp_path_factory.mktemp("c"))


def run(program, *arguments, out=subprocess.PIPE, cwd=None, **environment):
    """Run the C program; return how it ended."""
    command = [str(program), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",  # MXNet quotes what it cannot read
        check=False,
        env={**os.environ, "MXNET_SUBGRAPH_VERBOSE": "0", **environment},
    )


def whole_of(place) -> tuple[Path, Path, Path]:
    """Return what the C program is called with: the whole detector and a photo."""
    image = place / "photo.ppm"
    cv2.imwrite(str(image), cv2.imread(str(place / "photo.jpg")))
    edge = place / "edge"
    ends = ("symbol.json", "0000.params")
    return (*(edge / f"detector-whole-{end}" for end in ends), image)


def named(done, place) -> list[tuple]:
    names = Predictor(place / "edge").classes
    return [(names[int(row[0])], *row[1:]) for row in lines_of(done.stdout)]


def right_of(place) -> list[tuple]:
    return [row for row in expected(place) if row[1] >= 0.02]


@pytest.mark.parametrize("size", PHOTOS)
def test_c_program_prints_what_the_predictor_finds(program, places, size):
    place = places[size]
    done = run(program, *whole_of(place), "0.02")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_boxes(named(done, place), right_of(place), scores=0.01, pixels=0.5)


def test_c_program_reads_the_size_of_the_input(program, tmp_path):
    deploy(detector(size=(96, 160)), tmp_path / "edge")
    image = cv2.resize(picture(0, 3), (640, 480))
    cv2.imwrite(str(tmp_path / "photo.jpg"), image)
    done = run(program, *whole_of(tmp_path), "0.02")
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_boxes(
        named(done, tmp_path), right_of(tmp_path), scores=0.01, pixels=0.5
    )


def test_c_program_runs_a_detector_without_anchors(program, tmp_path):
    """With deformable convolutions, on the image and on the mirrored image."""
    deploy(small_detector(flip_test=True), tmp_path / "edge")
    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.resize(picture(0, 3), (160, 90)))
    done = run(program, *whole_of(tmp_path), "0.02")
    assert (done.returncode, done.stderr) == (0, "")
    right = right_of(tmp_path)
    assert len(right) > 5
    assert_same_boxes(named(done, tmp_path), right, scores=0.01, pixels=0.5)


def test_c_program_ends_without_taking_mxnet_down(program, place, tmp_path):
    # What is loaded before it would be called when the process is taken down.
    source = tmp_path / "last.c"
    source.write_text(
        "#include <unistd.h>\n__attribute__((destructor)) static void last(void)"
        '{ if (write(2, "down", 4) < 0) _exit(9); }\n'
    )
    library = tmp_path / "last.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert "down" in run("/bin/true", LD_PRELOAD=str(library)).stderr
    done = run(program, *whole_of(place), LD_PRELOAD=str(library))
    assert (done.returncode, done.stderr) == (0, "")


def test_c_program_says_when_it_cannot_print(program, place):
    with open("/dev/full", "w") as full:
        done = run(program, *whole_of(place), "0.02", out=full)
    message = "detect: standard output: cannot be written\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_c_program_reads_remarks_in_the_head_of_an_image(program, place, tmp_path):
    *pair, image = whole_of(place)
    pixels = image.read_bytes().split(b"\n255\n", 1)[1]
    head = b"P6\n# made by a program\n# 255 of them\n640 # wide\n480\n255\n"
    (tmp_path / "remarks.ppm").write_bytes(head + pixels)
    plain, other = (run(program, *pair, i) for i in (image, tmp_path / "remarks.ppm"))
    assert (other.returncode, other.stderr) == (0, "")
    assert other.stdout == plain.stdout != ""


def test_c_program_prints_finite_boxes_alone(program, place, tmp_path):
    whole_of(place)
    shutil.copy(place / "edge" / "manifest.json", tmp_path)
    symbol, params, image = RIGHT
    values = mx.nd.load(str(place / params))
    for name in values:
        if "predictor" in name and name.endswith("bias"):
            values[name][:] = 1e4  # exp(0.2 * 1e4) times an anchor is infinite
    mx.nd.save(str(tmp_path / "p"), values)
    shutil.copy(place / symbol, tmp_path / "s")
    done = run(program, "s", "p", place / image, "0", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


WHOLE, HEAD = "edge/detector-whole-{}", "edge/detector-{}"
SYMBOL, PARAMS = "symbol.json", "0000.params"
RIGHT = (WHOLE.format(SYMBOL), WHOLE.format(PARAMS), "photo.ppm")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "usage: detect SYMBOL PARAMS"),
        ((*RIGHT, "0.5", "0.6"), "usage: detect SYMBOL PARAMS"),
        (("none.json", *RIGHT[1:]), "none.json: cannot be opened"),
        (("edge", *RIGHT[1:]), "edge: cannot be read"),
        (("bare/symbol.json", *RIGHT[1:]), "bare/manifest.json: cannot be opened"),
        ((*RIGHT[:2], "photo.jpg"), "photo.jpg: not a binary PPM of 8 bits"),
        ((*RIGHT[:2], "cut.ppm"), "cut.ppm: is cut short"),
        ((*RIGHT[:2], "remark.ppm"), "remark.ppm: not a binary PPM of 8 bits"),
        ((*RIGHT[:2], "crlf.ppm"), "crlf.ppm: no line feed"),
        ((*RIGHT[:2], "large.ppm"), "large.ppm: more than 67108864 pixels"),
        (
            (HEAD.format(SYMBOL), HEAD.format(PARAMS), RIGHT[2]),
            "does not state the size",
        ),
        (
            (RIGHT[0], HEAD.format(PARAMS), RIGHT[2]),
            "detector-0000.params: holds other parameters than those of the symbol",
        ),
        ((RIGHT[0], RIGHT[0], RIGHT[2]), f"{SYMBOL}: MXNetError: Check failed: header"),
        ((RIGHT[0], "cut.params", RIGHT[2]), "cut.params: MXNetError"),
        ((RIGHT[0], "empty", RIGHT[2]), "empty: MXNetError"),
        (("cut.json", *RIGHT[1:]), "cut.json: "),
        (("empty", *RIGHT[1:]), "empty: does not state the size of its input"),
        *(
            ((*RIGHT, least), f"{least}: no least score; allowed: a number from 0 to 1")
            for least in ("abc", "2", "-0.1", "", "0.5x", "nan")
        ),
    ],
)
def test_c_program_refuses_bad_input_in_one_line(program, place, given, message):
    whole_of(place)
    for whole, cut in zip(RIGHT, ("cut.json", "cut.params", "cut.ppm")):
        (place / cut).write_bytes((place / whole).read_bytes()[:3000])
    shutil.copyfile(place / "edge" / "manifest.json", place / "manifest.json")
    (place / "empty").touch()
    (place / "bare").mkdir(exist_ok=True)
    shutil.copyfile(place / RIGHT[0], place / "bare" / "symbol.json")
    (place / "remark.ppm").write_bytes(b"P6 # of nothing")
    (place / "crlf.ppm").write_bytes(b"P6\r\n1 1\r\n255\r\nabc")
    (place / "large.ppm").write_bytes(b"P6\n8193 8192\n255\n")
    done = run(program, *given, cwd=place)
    assert done.returncode == 2
    assert done.stderr.startswith("detect: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
