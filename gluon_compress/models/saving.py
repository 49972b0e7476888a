"""Models in folders: what any family's net needs to be saved and loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Mapping

from mxnet.gluon import HybridBlock

from gluon_compress.model_folder import MANIFEST, export, load_symbol, read_manifest
from gluon_compress.models.family import family_named, family_of
from gluon_compress.storage.artifacts import CommonManifest, one_state
from gluon_compress.validation import listed, shown, wrong


def save(net: HybridBlock, folder: str | os.PathLike, name: str) -> dict:
    """Write a net of any family as an export of its symbol, for ``load`` and runtimes.

    Parameters
    ----------
    net : HybridBlock
        That ``build``, ``load`` or ``get_model`` returned, or what pruning made of it.
    folder : path
        As in ``gluon_compress.model_folder``.
    name : str
        Of the files.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        For a net of no family, or as ``export`` does.
    """
    family = family_of(net)
    shape = (1, 3, *family.input_size(net))
    return export(net, folder, name, shape=shape, info=family.manifest(net))


@one_state
def load(folder: str | os.PathLike, kind: str | None = None) -> HybridBlock:
    """Return the net that ``save`` wrote.

    Parameters
    ----------
    folder : path
    kind : str, optional
        The only kind that is accepted. None: any.

    Raises
    ------
    ValueError
        If the folder holds no export of a known kind, or a file of it is broken.
    """
    manifest, path = read_manifest(folder), Path(folder) / MANIFEST
    try:
        family = family_named(manifest.get("kind"))
        if kind not in (None, family.kind):
            raise ValueError(f"kind is {family.kind!r}; allowed: {kind!r}")
        config = family.config_from_manifest(manifest)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    pair = load_symbol(folder)
    try:
        net = family.from_symbol(*pair, config)
        check_manifest(net, manifest)
    except ValueError as error:  # of a symbol that the manifest does not fit
        raise ValueError(f"{path}: {error}") from None
    return net


def check_manifest(net: HybridBlock, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that states of a net what is not so.

    Raises
    ------
    ValueError
        Naming a key that the net's family does not know, or whose value another net
        would have.
    """
    family = family_of(net)
    expected = json.loads(json.dumps(family.manifest(net)))
    del expected["outputs"]  # of which the artifact states the shapes, too
    for key in manifest.keys() - CommonManifest.model_fields.keys():
        if key not in expected:
            raise ValueError(f"{shown(key)}: no such key; allowed: {listed(expected)}")
        if manifest[key] != expected[key]:
            raise wrong(key, manifest[key], shown(expected[key]))
    names = [output["name"] for output in manifest["outputs"]]
    if names != list(family.output_names):
        raise wrong("names of outputs", names, shown(family.output_names))
    shape = [1, 3, *family.input_size(net)]
    if manifest["input"]["shape"] != shape:
        raise wrong("input.shape", manifest["input"]["shape"], f"{shape}")
