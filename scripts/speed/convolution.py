"""A plain convolution, which says what a machine reaches at best."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

CONV = "3x3 convolution"
CHANNELS, CELLS = 256, 38
LAYERS = 4  # so that the way in and out, and int8's roundings there, count for little


def deploy_conv(folder: Path, formats: Sequence[str]) -> Path:
    """Write a few convolutions in each format, as ``deploy`` writes a head."""
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
    params = {n: mx.nd.array(noise(s)) / 50 for n, s in sizes.items()}
    graph = InferenceGraph(
        "net", symbol, params, shape, noise((2, *shape[1:])), "naive"
    )
    macs = LAYERS * CHANNELS**2 * 9 * CELLS**2
    with atomic_directory(folder) as draft:
        made = {}
        for name in formats:
            files = [f"net{ending}" for ending in FORMATS[name].files]
            made[name] = {"files": files, **FORMATS[name].write(graph, draft)}
        manifest = {"format": 1, "name": "net", "outputs": [], "formats": made}
        manifest["input"] = {"name": "data", "shape": shape}
        manifest.update(cost={"macs": macs}, files=checksums(draft))
        write_json(draft / "manifest.json", manifest)
    return folder


def noise(shape: Sequence[int]):
    """Return normal random numbers, the same each time."""
    import numpy as np

    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)
