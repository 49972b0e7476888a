"""Finds, loads and stores the weights of released models."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Mapping

import mxnet as mx
import numpy as np

from gluon_compress.graph.symbol_files import read_values
from gluon_compress.storage.download import fetch, intact
from gluon_compress.zoo.index import Entry, folder, training_of

LOG = logging.getLogger(__name__)
REPO = "GLUON_COMPRESS_REPO"
# Installed by ``pip install gluon_compress_weights``: the released folders.
PACKAGE = "gluon_compress_weights"
KINDS = ("float16", "float32")


def cache() -> Path:
    """Return the folder of GluonCV's models, which respects ``MXNET_HOME``."""
    return Path(mx.base.data_dir()).expanduser() / "models"


def zoos() -> list[Path]:
    """Return the folders that may hold weights: the model zoo, and the package's."""
    spec = importlib.util.find_spec(PACKAGE)
    installed = spec.submodule_search_locations if spec else ()
    return [folder(), *map(Path, installed or ())]


def find(entry: Entry, root: str | os.PathLike | None = None) -> Path:
    """Return the file of a model's weights, after downloading it if necessary.

    Parameters
    ----------
    entry : Entry
    root : path, optional
        The cache folder. Default: ``cache()``.

    Returns
    -------
    Path
        In the model zoo itself, or in the installed weights package; otherwise in the
        cache, downloaded from the address in ``GLUON_COMPRESS_REPO``.

    Raises
    ------
    ValueError
        If the model has no weights, or they cannot be downloaded.
    OSError
        If the cache cannot be written.
    """
    if entry.weights is None:
        training = (
            f"about {entry.hours:g} hours of two cores make them: {entry.command}"
        )
        raise ValueError(
            f"model {entry.name!r} has no weights: {entry.data} was not trained on "
            f"here; {training_of(entry.name) or training}"
        )
    stored = entry.weights
    checksum = f"sha256:{stored.sha256}"
    for path in (zoo / stored.file for zoo in zoos()):
        if path.is_file():
            if intact(path, checksum):
                return path
            LOG.warning("%s: altered or cut short; looking for it elsewhere", path)
    cache_folder = cache() if root is None else Path(root).expanduser()
    name = Path(stored.file)
    cached = cache_folder / f"{name.stem}-{stored.sha256[:8]}{name.suffix}"
    base = os.environ.get(REPO)
    if base:
        url = f"{base.rstrip('/')}/{stored.file}"
        return fetch(url, cached, checksum, size=stored.bytes)
    if cached.is_file() and intact(cached, checksum):
        return cached
    raise ValueError(
        f"model {entry.name!r}: its weights are neither in {folder() / entry.name} nor "
        f"intact at {cached}; install {PACKAGE}, or set {REPO} to the address of a "
        "model_zoo to fetch them from"
    )


def load(path: str | os.PathLike) -> dict[str, mx.nd.NDArray]:
    """Return stored values in float32, by parameter name.

    Raises
    ------
    ValueError
        If the file holds anything but finite parameters with names.
    """
    return {n: v.astype("float32") for n, v in read_values(path).items()}


def stored_as(
    values: Mapping[str, mx.nd.NDArray], kind: str
) -> dict[str, mx.nd.NDArray]:
    """Return values with filters and matrices in one of ``KINDS``; vectors stay.

    Raises
    ------
    ValueError
        For an unknown kind, or a value that it cannot hold.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} of weights; allowed: {', '.join(KINDS)}")
    converted = {n: v.astype(kind) if v.ndim > 1 else v for n, v in values.items()}
    for name, value in converted.items():
        if not np.isfinite(value.asnumpy()).all():
            raise ValueError(f"{name}: holds values that {kind} cannot hold")
    return converted
