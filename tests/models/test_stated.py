"""What a manifest states is true of the net, or the folder is refused."""

from __future__ import annotations

import json
import shutil

import mxnet as mx
import pytest

from gluon_compress import models
from gluon_compress.storage.artifacts import checksums


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    net = models.FAMILIES["classifier"].build("cifar_resnet20_v1", ("a", "b"), size=16)
    folder = tmp_path_factory.mktemp("stated") / "net"
    models.save(net, folder, "net")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "net")


def rewrite(folder, change) -> None:
    """Change a manifest, with the sums that the files have now."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    manifest["files"] = checksums(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_folder_as_it_was_is_loaded(folder):
    rewrite(folder, lambda manifest: None)
    assert models.load(folder) is not None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", [0.5, 0.5, 0.5], "mean is"),
        ("std", [0, 0, 0], "std is"),
        ("size", 32, "size is"),
        ("remark", 1, "'remark': no such key"),
        ("x" * 999, 1, "no such key"),
        ("classes", ["a", "b", "c"], "classes"),
        ("input", {"name": "data", "shape": [1, 3, 16, 16], "more": 1}, "input.more"),
        ("input", {"name": "data", "shape": [1, 3, 24, 24]}, "size is"),
        ("input", {"name": "data", "shape": [2, 3, 16, 16]}, "manifest.json: "),
        ("input", {"name": "data", "shape": [1, 3, 16, 10**18]}, "shape"),
        ("input", {"name": "conv9", "shape": [1, 3, 16, 16]}, "input.name is 'conv9'"),
        ("outputs", [], "outputs"),
        ("outputs", [{"name": "class_scores", "shape": [3, 2]}], "shapes of outputs"),
        ("outputs", [{"name": "scores", "shape": [1, 2]}], "names of outputs"),
        ("max_difference", {"absolute": -1, "relative": 0}, "max_difference.absolute"),
        ("versions", {"mxnet": 1}, "versions"),
        ("name", "../net", "name is"),
        ("format", True, "format is True"),
    ],
)
def test_what_is_not_so_is_refused(folder, key, value, message):
    rewrite(folder, lambda manifest: manifest.update({key: value}))
    with pytest.raises(ValueError, match=message) as error:
        models.load(folder)
    assert "manifest.json" in str(error.value)
    assert len(str(error.value)) - len(str(folder)) < 300


@pytest.mark.parametrize("file", ["net-symbol.json", "net-0000.params"])
def test_a_file_without_a_checksum_is_not_opened(folder, file):
    (folder / file).write_bytes(b"")
    rewrite(folder, lambda manifest: manifest["files"].pop(file))
    with pytest.raises(ValueError, match="files has no|without weights"):
        models.load(folder)


def test_parameters_that_are_no_numbers_are_refused(folder):
    file = folder / "net-0000.params"
    stored = mx.nd.load(str(file))
    name = min(stored)
    stored[name] = stored[name] * float("nan")
    mx.nd.save(str(file), stored)
    rewrite(folder, lambda manifest: None)
    with pytest.raises(ValueError, match=r"net-0000\.params: .*NaN"):
        models.load(folder)


def test_an_operator_that_is_not_of_the_list_is_refused(folder):
    file = folder / "net-symbol.json"
    symbol = json.loads(file.read_text())
    symbol["nodes"][-1].update(op="_Native", attrs={"info": "0x1"})
    file.write_text(json.dumps(symbol))
    rewrite(folder, lambda manifest: None)
    with pytest.raises(ValueError, match=r"net-symbol\.json: nodes.*_Native"):
        models.load(folder)
