"""What is timed: nets by name or by folder, deployed once, and a plain convolution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Sequence

from experiments.nets import TIMED

CONV = "3x3 convolution"  # what a machine reaches at best
CHANNELS, CELLS = 256, 38
LAYERS = 4  # so that the way in and out, and int8's roundings there, count for little


def deployed_folder(name: str, work: Path, formats: Sequence[str]) -> Path:
    """Return a deployed folder: that of the name, or one made for a net of ``TIMED``.

    Raises
    ------
    ValueError
        If it is neither, or the folder lacks a format.
    """
    from gluon_compress.storage.artifacts import MANIFEST, verified

    folder = work / name if name in (*TIMED, CONV) else Path(name)
    if (folder / MANIFEST).exists():
        missing = set(formats) - set(verified(folder)["formats"])
        if not missing:
            return folder
        if folder == Path(name):
            raise ValueError(f"{name}: has no format {min(missing)!r}")
    if name == CONV:
        return _deploy_convolution(folder, formats)
    if name not in TIMED:
        allowed = ", ".join(TIMED)
        raise ValueError(f"{name}: no deployed folder, nor one of {allowed}")
    return _deploy(name, folder, formats)


def _deploy(name: str, folder: Path, formats: Sequence[str]) -> Path:
    import gluon_compress as gc

    images = noise((4, 3, 300, 300))
    options = {"formats": formats, "images": images, "calibration": "naive"}
    gc.deploy(build(name), folder, "net", **options)
    return folder


def build(name: str) -> Any:
    """Return a net of ``TIMED`` or of ``gluon_compress.build``, with starting values.

    Values change no time.
    """
    import gluon_compress as gc

    return TIMED[name].build() if name in TIMED else gc.build(name)


def facts_of(folder: Path, format_name: str) -> dict[str, Any]:
    """Return MACs, input shape, files of a format, and their bytes."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = manifest["formats"][format_name]["files"]
    return {
        "macs": manifest["cost"]["macs"],
        "shape": manifest["input"]["shape"],
        "files": [str(folder / file) for file in files],
        "bytes": sum(manifest["files"][file]["bytes"] for file in files),
    }


def _deploy_convolution(folder: Path, formats: Sequence[str]) -> Path:
    """Write a few convolutions in each format, as ``deploy`` writes a net."""
    import mxnet as mx

    from gluon_compress.deployment.formats import FORMATS, InferenceGraph
    from gluon_compress.storage.artifacts import atomic_directory, checksums
    from gluon_compress.storage.atomic import write_json

    shape = (1, CHANNELS, CELLS, CELLS)
    symbol, sizes = mx.sym.var("data"), {}
    for i in range(LAYERS):
        layer = {"num_filter": CHANNELS, "kernel": (3, 3), "pad": (1, 1)}
        symbol = mx.sym.Convolution(symbol, **layer, name=f"conv{i}")
        sizes[f"conv{i}_weight"] = (CHANNELS, CHANNELS, 3, 3)
        sizes[f"conv{i}_bias"] = (CHANNELS,)
    params = {n: mx.nd.array(noise(size)) / 50 for n, size in sizes.items()}
    images = noise((2, *shape[1:]))
    graph = InferenceGraph("net", symbol, params, shape, images, "naive")
    with atomic_directory(folder) as draft:
        entries = {}
        for name in formats:
            files = [f"net{ending}" for ending in FORMATS[name].files]
            entries[name] = {"files": files, **FORMATS[name].write(graph, draft)}
        manifest = {
            "format": 1,
            "name": "net",
            "input": {"name": "data", "shape": shape},
            "outputs": [{"name": symbol.list_outputs()[0], "shape": shape}],
            "formats": entries,
            "cost": {"macs": LAYERS * CHANNELS**2 * 9 * CELLS**2},
            "files": checksums(draft),
        }
        write_json(draft / "manifest.json", manifest)
    return folder


def noise(shape: Sequence[int]) -> Any:
    """Return normal random numbers, float32, the same each time."""
    import numpy as np

    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)
