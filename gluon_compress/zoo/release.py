"""Releases models: writes structure, manifest and weights into the zoo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping

import mxnet as mx

from gluon_compress.graph.symbol_files import as_ndarray
from gluon_compress.model_folder import MANIFEST, read_manifest
from gluon_compress.storage.atomic import (
    atomic_file,
    sha256,
    write_atomically,
    write_json,
)
from gluon_compress.storage.params import read_params
from gluon_compress.zoo import weights
from gluon_compress.zoo.index import Weights

EXPORT_KEYS = ("files", "max_difference")  # of an export's manifest only


def release(
    source: str | os.PathLike, zoo: str | os.PathLike, name: str, *, kind: str | None
) -> Weights | None:
    """Write the structure, the manifest and, if trained, the weights of an export.

    Parameters
    ----------
    source : path
        Folder of an export.
    zoo : path
        The model zoo, ``index.folder`` of a checkout.
    name : str
        Name of the model, of its folder and of its files.
    kind : str, optional
        Kind of the weights, one of ``weights.KINDS``; None: no weights are released.

    Returns
    -------
    Weights or None
        The file of the weights, for the index.

    Raises
    ------
    ValueError
        If the source is not an export, or the kind cannot represent its values.
    """
    source, folder = Path(source), Path(zoo) / name
    manifest = read_manifest(source)
    prefix = source / manifest["name"]
    arrays = read_params(f"{prefix}-0000.params")
    stored = {name: as_ndarray(value) for name, value in arrays.items()}
    values = None if kind is None else weights.stored_as(stored, kind)
    folder.mkdir(parents=True, exist_ok=True)
    symbol = Path(f"{prefix}-symbol.json").read_bytes()
    write_atomically(folder / f"{name}-symbol.json", symbol)
    released = None if values is None else _write(values, folder)
    stated = {k: v for k, v in manifest.items() if k not in EXPORT_KEYS}
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.glob(f"{name}-*"))
    }
    write_json(folder / MANIFEST, {**stated, "name": name, "files": files})
    return released


def _write(stored: Mapping[str, mx.nd.NDArray], folder: Path) -> Weights:
    path = folder / f"{folder.name}-0000.params"
    with atomic_file(path) as draft:
        mx.nd.save(str(draft), dict(stored))
    return Weights(
        file=f"{folder.name}/{path.name}",
        bytes=path.stat().st_size,
        sha256=sha256(path),
    )
