"""What an installation holds, and that it does its work far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gluon_compress.storage.atomic import read_json

ROOT = Path(__file__).resolve().parents[1]
USE = """
import numpy as np

import gluon_compress as gc

assert gc.__file__.startswith({site!r}), gc.__file__
assert "resnet50_v1d_compact_s_imagenette" in gc.list_models(pretrained=True)
gc.get_model("resnet50_v1d_compact_s_imagenette", pretrained=True)
net = gc.get_model("ssd_300_resnet50_v1d_compact_s", classes=["cat", "dog"])
gc.export(gc.build("ssd_300_mobilenet0.25", ["cat"]), "pair", shape=(1, 3, 300, 300))
gc.deploy(net, "edge", formats=["mxnet"])
ids, scores, boxes = gc.Predictor("edge")([np.zeros((40, 60, 3), np.uint8)])[0]
assert len(ids) == len(scores) == len(boxes)
print("done")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the folder of packages that setup.py installs."""
    folder = tmp_path_factory.mktemp("build")
    places = ("--build-base", folder / "base", "--build-lib", folder / "site")
    command = [sys.executable, "setup.py", "-q", "build", *map(str, places)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_installation_holds_index_plans_and_recipes_but_no_weights(site):
    zoo = site / "gluon_compress" / "model_zoo"
    for model in read_json(zoo / "index.json")["models"]:
        folder = zoo / model["name"]
        assert (folder / "recipe.json").exists()
        assert (folder / f"{model['name']}-symbol.json").exists()
        pruned = (ROOT / "model_zoo" / model["name"] / "plan.json").exists()
        assert (folder / "plan.json").exists() == pruned
    assert [p.name for p in site.rglob("*.params")] == []
    assert {p.name for p in site.iterdir()} == {"gluon_compress"}


def test_installation_holds_every_module(site):
    there = {p.relative_to(site) for p in site.rglob("*.py")}
    wanted = (ROOT / "gluon_compress").rglob("*.py")
    assert there == {p.relative_to(ROOT) for p in wanted}


@pytest.mark.slow
def test_installation_works_in_another_folder(site, tmp_path):
    (tmp_path / "use.py").write_text(USE.format(site=str(site)), encoding="utf-8")
    places = {
        "PYTHONPATH": str(site),
        "MXNET_HOME": str(tmp_path / "home"),
        "GLUON_COMPRESS_REPO": (ROOT / "model_zoo").as_uri(),
    }
    done = subprocess.run(
        [sys.executable, "use.py"],
        cwd=tmp_path,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"
    assert list((tmp_path / "home" / "models").glob("*.params"))
