"""Small, sound files of every kind that the package reads, each with its reader."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import cv2
import mxnet as mx
import numpy as np
from mxnet import gluon

from gluon_compress import models
from gluon_compress.data import ImageFolder, Records, VOCLayout, coco_gluoncv
from gluon_compress.data.images import read_image
from gluon_compress.deployment import Predictor, deploy
from gluon_compress.deployment import manifest as manifests
from gluon_compress.graph import trace
from gluon_compress.latency import LatencyTable
from gluon_compress.latency.table import Grid
from gluon_compress.plan import Plan, Sensitivity
from gluon_compress.postprocess import SSDPostprocess
from gluon_compress.postprocess.ssd import SSDPostprocessSettings
from gluon_compress.recipe import load_recipe
from gluon_compress.storage.archives import unpack
from gluon_compress.storage.artifacts import MANIFEST
from gluon_compress.train import LAST, LOG, Options, Schedule
from gluon_compress.train.log import read_log
from gluon_compress.train.run import Run
from gluon_compress.zoo.index import read as read_index
from tools.fuzz_results import (
    RUN,
    STAGE,
    detection_files,
    read_detections,
    read_results,
    result_files,
)

SIDE = 32  # pixels of the classifier's input
CLASSES = ("a", "b", "c")
BINARY = ("bits", "cut", "splice", "swap", "words")
TEXT = ("bits", "cut", "splice", "swap", "digits")
JSON = (*TEXT, "structure", "structure", "structure", "structure")
ARRAYS = (*BINARY, "members", "members", "members")
# By kind of sample: format, runtime and precision.
DEPLOYED = {
    "mxnet": ("mxnet", "mxnet", "float32"),
    "int8": ("int8", "mxnet", "int8"),
    "onnx": ("onnx", "onnxruntime", "float32"),
    "onnx-int8": ("onnx-int8", "onnxruntime", "int8"),
    "opencv": ("onnx", "opencv", "float32"),
    "openvino": ("openvino", "openvino", "float32"),
    "ncnn": ("ncnn", "ncnn", "float32"),
    "web": ("web", "onnxruntime", "float32"),
}


@dataclass(frozen=True)
class Sample:
    """Sound files, which of them are damaged, and how they are read.

    Parameters
    ----------
    files : mapping
        Content by relative path.
    damaged : sequence of str
        The files that damage is done to.
    damages : sequence of str
        Rows of ``DAMAGES``, some more than once; empty: all.
    read : callable
        ``read(folder)``.
    manifest : str
        The manifest among the files that lists their checksums, if there is one.
    """

    files: Mapping[str, bytes]
    damaged: Sequence[str]
    damages: Sequence[str]
    read: Callable[[Path], Any]
    manifest: str = ""

    def write(self, folder: Path, files: Mapping[str, bytes]) -> None:
        """Write these files in place of the sample's."""
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    def with_sums(self, files: Mapping[str, bytes]) -> bytes:
        """Return the manifest with the checksums that these files have."""
        content = json.loads(self.files[self.manifest])
        content["files"] = {
            name: {
                "sha256": hashlib.sha256(files[name]).hexdigest(),
                "bytes": len(files[name]),
            }
            for name in content["files"]
        }
        return json.dumps(content).encode()


def make_samples(
    scratch: Path, kinds: Sequence[str] | None = None
) -> dict[str, Sample]:
    """Return samples by kind of file.

    Parameters
    ----------
    scratch : path
        A new folder to make them in.
    kinds : sequence of str, optional
        Default: all whose runtimes are installed.

    Raises
    ------
    ValueError
        For a kind that there is not.
    """
    scratch.mkdir(parents=True)
    samples = {**_settings(scratch), **_images(scratch), **_training(scratch)}
    samples.update(_results(scratch))
    if kinds is None or not set(kinds) <= set(samples):
        samples.update(_nets(scratch))
    for kind in kinds or ():
        if kind not in samples:
            raise ValueError(f"kind {kind!r}; allowed: {', '.join(sorted(samples))}")
    return {kind: samples[kind] for kind in kinds or samples}


# ------------------------------------------------------------ settings and results


def _settings(scratch: Path) -> dict[str, Sample]:
    net = _small_net()
    graph = trace(net, shape=(1, 3, 8, 8))
    group = graph.groups[0]
    widths = {each.name: each.width for each in graph.groups}
    Plan({group.name: [0, 2]}, "net", {"widths": widths}).save(scratch / "plan.json")
    curve = {group.name: [(4, 0.5), (2, 0.25)]}
    Sensitivity(0.5, widths, curve).save(scratch / "sensitivity.json")
    grid = Grid((4, 8), (4, 8), ((1.0, 2.0), (3.0, 4.0)))
    LatencyTable({"cpu": "a"}, 0.1, {"conv": grid}).save(scratch / "table.json")
    (scratch / "recipe.json").write_text(json.dumps(_recipe()), encoding="utf-8")
    (scratch / "index.json").write_text(json.dumps(_index()), encoding="utf-8")

    def read_plan(folder: Path) -> None:
        Plan.load(folder / "plan.json").check(graph)

    def read_sensitivity(folder: Path) -> None:
        stored = Sensitivity.load(folder / "sensitivity.json")
        stored.check([group])
        stored.lost(group.name, [1, 2])

    def read_table(folder: Path) -> None:
        for stored in LatencyTable.load(folder / "table.json").grids.values():
            stored.at_effective_widths()
            stored.nanoseconds(5, 5)

    readers: dict[str, Callable[[Path], Any]] = {
        "plan": read_plan,
        "sensitivity": read_sensitivity,
        "table": read_table,
        "recipe": lambda folder: load_recipe(folder / "recipe.json"),
        "index": read_index,
    }
    return {
        name: _of_one(scratch / f"{name}.json", JSON, read)
        for name, read in readers.items()
    }


def _of_one(path: Path, damages: Sequence[str], read: Callable) -> Sample:
    return Sample({path.name: path.read_bytes()}, [path.name], damages, read)


def _recipe() -> dict[str, Any]:
    return {
        "task": "detection",
        "paper": "none",
        "command": "none",
        "hours": 1,
        "expected": {},
        "seed": 0,
        "model": {"name": "ssd_300_mobilenet0.25"},
        "data": {"kind": "voc", "root": "none", "classes": ["a", "b"]},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
        "compression": [{"algorithm": "prune", "budget": {"macs_ratio": 0.5}}],
        "finetune": {"epochs": 1, "batch_size": 8, "learning_rate": 0.01},
    }


def _index() -> dict[str, Any]:
    weights = {"file": "a/a.params", "bytes": 4, "sha256": "0" * 64}
    entry = {
        "name": "a",
        "kind": "ssd",
        "classes": ["a"],
        "data": "none",
        "size": 300,
        "params": 1,
        "macs": 2,
        "bytes": 4,
        "licence": "none",
        "command": "none",
        "hours": 1,
        "metric": {"name": "mAP", "value": 0.5, "on": "none"},
        "weights": weights,
    }
    return {"format": 1, "models": [entry]}


# ------------------------------------------------------------ training


def _small_net() -> gluon.HybridBlock:
    net = gluon.nn.HybridSequential()
    net.add(
        gluon.nn.Conv2D(4, 3, in_channels=3),
        gluon.nn.BatchNorm(in_channels=4),
        gluon.nn.Conv2D(2, 3, in_channels=4),
    )
    net.initialize(mx.init.Xavier())
    return net


def _training(scratch: Path) -> dict[str, Sample]:
    net, schedule = _small_net(), Schedule(epochs=2, learning_rate=0.1)
    options = Options(progress=False, resume=True)

    def opened(folder: Path) -> Run:
        run = Run(net, schedule, folder, options, {})
        run.open(3)
        return run

    run = opened(scratch / "run")
    with mx.autograd.record():
        loss = net(mx.nd.ones((1, 3, 8, 8))).sum()
    loss.backward()
    run.trainer.update(1)
    run.log_step(0.1, {"loss": 1.0, "parts": {"boxes": 0.5}}, 1)
    run.record_validation({"mAP": 0.5})
    run.save()
    log = _of_one(scratch / "run" / LOG, JSON, lambda folder: read_log(folder / LOG))
    files = {name: (scratch / "run" / name).read_bytes() for name in (LAST, LOG)}
    return {"checkpoint": Sample(files, [LAST], ARRAYS, opened), "log": log}


def _results(scratch: Path) -> dict[str, Sample]:
    files = result_files(_recipe())
    found = detection_files(scratch)
    return {
        "result": Sample(files, [STAGE, RUN], JSON, read_results),
        "detections": Sample(found, list(found), ARRAYS, read_detections),
    }


# ------------------------------------------------------------ images


def _images(scratch: Path) -> dict[str, Sample]:
    pixels = np.random.RandomState(0).randint(0, 255, (24, 32, 3), np.uint8)
    jpeg, png = (cv2.imencode(end, pixels)[1].tobytes() for end in (".jpg", ".png"))
    webp, bmp = (cv2.imencode(end, pixels)[1].tobytes() for end in (".webp", ".bmp"))
    images = {"a.jpg": jpeg, "a.png": png, "a.webp": webp, "a.bmp": bmp}

    def read_all(folder: Path) -> None:
        for name in images:
            read_image(folder / name)

    samples = {"image": Sample(images, list(images), BINARY, read_all)}
    xml = _annotation()
    voc = {
        "JPEGImages/a.jpg": jpeg,
        "JPEGImages/b.jpg": jpeg,
        "Annotations/a.xml": xml,
        "Annotations/b.xml": xml,
        "ImageSets/Main/train.txt": b"a\nb\n",
    }
    lists = ["Annotations/a.xml", "ImageSets/Main/train.txt"]
    samples["voc"] = Sample(voc, lists, TEXT, _read_voc)
    coco = {"train/a.jpg": jpeg, "annotations/instances_train.json": _coco()}
    samples["coco"] = Sample(
        coco, ["annotations/instances_train.json"], JSON, _read_coco
    )
    tree = {"a/0.jpg": jpeg, "b/0.png": png}
    samples["folder"] = Sample(tree, list(tree), BINARY, _read_tree)
    writer = mx.recordio.MXIndexedRecordIO(
        str(scratch / "a.idx"), str(scratch / "a.rec"), "w"
    )
    for i in range(2):
        header = mx.recordio.IRHeader(0, float(i), i, 0)
        writer.write_idx(i, mx.recordio.pack(header, jpeg))
    writer.close()
    records = {name: (scratch / name).read_bytes() for name in ("a.rec", "a.idx")}
    samples["records"] = Sample(records, list(records), BINARY, _read_records)
    return {**samples, **_archives(images)}


def _annotation() -> bytes:
    box = "<xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax>"
    item = (
        f"<object><name>a</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
    )
    size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
    return f"<annotation>{size}{item}</annotation>".encode()


def _coco() -> bytes:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 32, "height": 24}],
        "categories": [{"id": 3, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [3, 4, 10, 10]}
        ],
    }
    return json.dumps(content).encode()


def _read_voc(folder: Path) -> None:
    dataset = VOCLayout(folder, "train", ("a",))
    for i in range(len(dataset)):
        dataset.label(i)
        dataset[i]


def _read_coco(folder: Path) -> None:
    dataset = coco_gluoncv(folder, "train")
    for i in range(len(dataset)):
        dataset[i]


def _read_tree(folder: Path) -> None:
    dataset = ImageFolder(folder)
    for i in range(len(dataset)):
        dataset[i]


def _read_records(folder: Path) -> None:
    dataset = Records(folder / "a.rec", CLASSES)
    for i in range(len(dataset)):
        dataset[i]


def _archives(images: Mapping[str, bytes]) -> dict[str, Sample]:
    import tarfile

    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in images.items():
            archive.writestr(f"in/{name}", content)
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        for name, content in images.items():
            member = tarfile.TarInfo(f"in/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    def read(name: str, folder: Path) -> None:
        unpack([(folder / name, "in")], folder / "out")

    return {
        kind: Sample({name: data.getvalue()}, [name], BINARY, partial(read, name))
        for kind, name, data in (("zip", "a.zip", zipped), ("tar", "a.tgz", tarred))
    }


# ------------------------------------------------------------ nets


def _nets(scratch: Path) -> dict[str, Sample]:
    _apart(partial(_write_nets, scratch))
    files = _files(scratch / "model")
    model = Sample(files, [], (), models.load, MANIFEST)
    samples = {
        "manifest": replace(model, damaged=[MANIFEST], damages=JSON),
        "symbol": replace(model, damaged=["net-symbol.json"], damages=JSON),
        "params": replace(model, damaged=["net-0000.params"], damages=BINARY),
        "anchors": _anchors(scratch / "edge"),
    }
    for kind, (_, runtime, precision) in DEPLOYED.items():
        if not (scratch / kind).exists():
            continue
        stored = _files(scratch / kind)
        targets = [name for name in stored if name != MANIFEST]
        read = partial(_predict, runtime, precision)
        samples[f"deployed {kind}"] = Sample(stored, targets, (), read, MANIFEST)
    samples["deployed manifest"] = replace(
        samples["deployed mxnet"], damaged=[MANIFEST], damages=JSON
    )
    return samples


def _apart(work: Callable[[], None]) -> None:
    """Do work in a forked process: runtimes that ran do not survive further forks."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise ValueError("the samples of nets cannot be made")


def _write_nets(scratch: Path) -> None:
    """Write a model folder, and a deployed folder for each format that can be."""
    net = models.FAMILIES["classifier"].build("cifar_resnet20_v1", CLASSES, size=SIDE)
    models.save(net, scratch / "model", "net")
    noise = np.random.RandomState(0).standard_normal((2, 3, SIDE, SIDE))
    for kind, (name, _, _) in DEPLOYED.items():
        try:
            images = noise.astype(np.float32)
            deploy(net, scratch / kind, "net", formats=[name], images=images)
        except ValueError as error:  # a runtime that is not installed
            print(f"{kind}: left out: {error}", flush=True)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _predict(runtime: str, precision: str, folder: Path) -> None:
    predictor = Predictor(folder, runtime, precision=precision)
    predictor([np.zeros((20, 30, 3), np.uint8)])


def _anchors(folder: Path) -> Sample:
    """Return the manifest of an SSD and its anchors, without a net."""
    folder.mkdir()
    anchors = np.random.RandomState(0).uniform(1, 30, (6, 4)).astype(np.float32)
    settings, arrays = SSDPostprocess(anchors, SSDPostprocessSettings()).state()
    np.save(folder / "anchors.npy", arrays["anchors.npy"])
    files = _files(folder)
    content = {
        "format": 1,
        "name": "net",
        "kind": "ssd-deployed",
        "classes": CLASSES,
        "input": {"name": "data", "shape": [1, 3, SIDE, SIDE]},
        "preprocess": {"height": SIDE, "width": SIDE},
        "outputs": [{"name": "predictions", "shape": [1, 6, 8]}],
        "postprocess": settings,
        "formats": {},
        "files": dict.fromkeys(files),
    }
    files[MANIFEST] = json.dumps(content).encode()
    sample = Sample(files, ["anchors.npy", MANIFEST], (), _decode, MANIFEST)
    files[MANIFEST] = sample.with_sums(files)
    return sample


def _decode(folder: Path) -> None:
    stated = manifests.read(folder)
    postprocess = manifests.read_postprocess(folder, stated)
    shapes = stated.output_shapes
    postprocess.decode({n: np.zeros(s, np.float32) for n, s in shapes.items()})
