"""What the wheels hold, and that they do their work without network or checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gluon_compress.storage.atomic import read_json
from gluon_compress.version import __version__

ROOT = Path(__file__).resolve().parents[1]
INDEX = read_json(ROOT / "model_zoo" / "index.json")["models"]
# Without the full backbone, which would make the wheel too large.
RELEASED = [
    model["name"]
    for model in INDEX
    if model["weights"] and model["weights"]["bytes"] <= 20e6
]
USE = """
import socket

def refuse(*ignored, **more):
    raise AssertionError("no network is needed")

socket.socket.connect = socket.getaddrinfo = refuse

import numpy as np

import gluon_compress as gc

assert gc.__file__.startswith({site!r}), gc.__file__
assert gc.__version__ == {version!r}
gc.get_model("resnet50_v1d_compact_s_imagenette", pretrained=True)
net = gc.get_model("ssd_300_resnet50_v1d_compact_s_bccd", pretrained=True)
gc.deploy(net, "edge", formats=["mxnet"])
ids, scores, boxes = gc.Predictor("edge")([np.zeros((40, 60, 3), np.uint8)])[0]
assert len(ids) == len(scores) == len(boxes)
print("done")
"""


def build(source: Path, folder: Path) -> Path:
    """Return the wheel of a ``setup.py``; nothing is written beside it."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder]
    command += ["build", "--build-base", folder / "build"]
    command += ["bdist_wheel", "--dist-dir", folder, "--bdist-dir", folder / "bdist"]
    command += ["--compression", "stored"] if source != ROOT else []  # takes seconds
    done = subprocess.run(
        list(map(str, command)), cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return build(ROOT / "packaging" / "weights", tmp_path_factory.mktemp("weights"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_module(package):
    wanted = (ROOT / "gluon_compress").rglob("*.py")
    there = {name for name in names_in(package) if name.endswith(".py")}
    assert there == {str(path.relative_to(ROOT)) for path in wanted}


def test_wheel_holds_the_page_for_browsers(package):
    page = "gluon_compress/deployment/web"
    wanted = {f"{page}/{path.name}" for path in (ROOT / page).iterdir()}
    assert {n for n in names_in(package) if n.startswith(page)} == wanted
    assert f"{page}/index.html" in wanted


def test_wheel_holds_structures_plans_and_recipes_but_no_weights(package):
    names = names_in(package)
    zoo = "gluon_compress/model_zoo"
    assert f"{zoo}/index.json" in names
    for model in (model["name"] for model in INDEX):
        for file in (ROOT / "model_zoo" / model).glob("*.json"):
            assert f"{zoo}/{model}/{file.name}" in names
    assert not any(name.endswith(".params") for name in names)


def test_wheel_holds_no_experiments(package):
    zoo = {name.split("/")[2] for name in names_in(package) if "/model_zoo/" in name}
    folders = {p.parent.name for p in (ROOT / "model_zoo").glob("*/recipe.json")}
    assert zoo == {"index.json", *folders}
    assert package.stat().st_size < 2e6


@pytest.mark.slow
def test_wheel_of_weights_holds_the_released_folders(weights):
    names = {f"gluon_compress_weights/{name}" for name in RELEASED}
    assert {name.rsplit("/", 1)[0] for name in names_in(weights)} == names
    for model in INDEX:
        if model["name"] in RELEASED:
            file = f"gluon_compress_weights/{model['weights']['file']}"
            assert file in names_in(weights)
    assert weights.stat().st_size < 100e6


@pytest.mark.slow
def test_both_wheels_work_offline_in_another_folder(package, weights, tmp_path):
    site = tmp_path / "site"
    for wheel in (package, weights):  # as pip does, without what they depend on
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    text = USE.format(site=str(site), version=__version__)
    (tmp_path / "use.py").write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    environment["MXNET_HOME"] = str(tmp_path / "home")
    environment.pop("GLUON_COMPRESS_REPO", None)
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
    assert not (tmp_path / "home" / "models").exists()
