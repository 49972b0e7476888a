"""Runs every program of docs/deploy.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from gluon_compress.edge import Predictor, deploy, read_inputs
from images import picture
from runtimes import EVERY, detector

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = {
    text.split("\n", 1)[0].lstrip("# "): text
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
FORMAT = {  # which a program reads
    "gluon_compress": "onnx-dynamic",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "opencv": "onnx",
    "mxnet": "mxnet",
    "mxnet-int8": "int8",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the page has it: edge/, photo.jpg and decode.py."""
    folder = tmp_path_factory.mktemp("page")
    image = cv2.resize(picture(0, 3), (240, 180), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(folder / "photo.jpg"), image)
    images, _ = read_inputs([folder / "photo.jpg"], 300)
    deploy(
        detector(),
        folder / "edge",
        "detector",
        formats=EVERY,
        images=images,
        calibration="naive",
    )
    (folder / "decode.py").write_text(BLOCKS["decode.py"], encoding="utf-8")
    return folder


def lines_of(text: str) -> list[tuple]:
    rows = [line.split() for line in text.splitlines()]
    return [(row[0], *map(float, row[1:])) for row in rows if len(row) == 6]


def expected(place) -> list[tuple]:
    predictor = Predictor(place / "edge")
    image = cv2.imread(str(place / "photo.jpg"))[..., ::-1]
    return [
        (predictor.classes[i], float(score), *map(float, box))
        for i, score, box in zip(*predictor([image])[0])
    ]


def test_page_has_a_program_for_each_runtime():
    assert set(BLOCKS) == {*FORMAT, "decode.py"}


@pytest.mark.parametrize("name", FORMAT)
def test_program_finds_what_the_predictor_finds(place, name):
    if FORMAT[name] not in EVERY:
        pytest.skip(f"what writes {FORMAT[name]} is not installed")
    command = [sys.executable, "-W", "ignore", "-c", BLOCKS[name]]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found, right = lines_of(done.stdout), expected(place)
    assert len(found) == len(right) > 10
    # The page's resize is simpler, int8 is rounded: the best boxes are the same ones.
    loose = name.endswith("int8")
    assert found[0][0] == right[0][0]
    np.testing.assert_allclose(
        [row[1] for row in found[:10]],
        [row[1] for row in right[:10]],
        atol=0.15 if loose else 0.02,
    )
    if not loose:
        np.testing.assert_allclose(found[0][2:], right[0][2:], atol=3)


@pytest.mark.skipif("openvino" not in EVERY, reason="openvino is not installed")
def test_openvino_computes_in_float32_whatever_the_cpu_has(place):
    asked = 'print(net.get_property("INFERENCE_PRECISION_HINT").get_type_name())'
    command = [sys.executable, "-W", "ignore", "-c", f"{BLOCKS['openvino']}\n{asked}"]
    shown = subprocess.check_output(command, cwd=place, text=True)
    assert shown.splitlines()[-1] == "f32"


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


def run(program, *arguments, out=subprocess.PIPE, **environment):
    """Run the C program; return how it ended."""
    command = [str(program), *map(str, arguments)]
    return subprocess.run(
        command,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
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


def test_c_program_prints_the_boxes_of_the_net(program, place):
    done = run(program, *whole_of(place), "0.02")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[float(n) for n in line.split()] for line in done.stdout.splitlines()]
    right = [row for row in expected(place) if row[1] >= 0.02]
    classes = Predictor(place / "edge").classes
    assert abs(len(rows) - len(right)) <= 3
    assert classes[int(rows[0][0])] == right[0][0]
    scores = [row[1] for row in rows[:10]]
    np.testing.assert_allclose(scores, [row[1] for row in right[:10]], atol=0.02)
    np.testing.assert_allclose(rows[0][2:], right[0][2:], atol=3)


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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("none.json", "whole-0000.params", "photo.ppm"), "cannot be opened"),
        (("whole-symbol.json", "whole-0000.params", "photo.jpg"), "not a binary PPM"),
        (("symbol.json", "0000.params", "photo.ppm"), "not one of a whole detector"),
        (
            ("whole-symbol.json", "whole-symbol.json", "photo.ppm"),
            "NDArray file format",
        ),
        ((), "usage"),
    ],
    ids=["missing", "jpeg", "head", "params", "nothing"],
)
def test_c_program_refuses_bad_input_in_one_line(program, place, names, message):
    cv2.imwrite(str(place / "photo.ppm"), cv2.imread(str(place / "photo.jpg")))
    paths = [
        place / name
        if name.startswith("photo")
        else place / "edge" / f"detector-{name}"
        for name in names
    ]
    done = run(program, *paths)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
