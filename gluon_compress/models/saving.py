"""Models in folders: what any family's net needs to be saved and loaded."""

from __future__ import annotations

import os
from pathlib import Path

from mxnet.gluon import HybridBlock

from gluon_compress.model_folder import MANIFEST, export, load_symbol, read_manifest
from gluon_compress.models.family import family_named, family_of
from gluon_compress.storage.artifacts import one_state


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
        return family.from_symbol(*pair, config)
    except ValueError as error:  # of a symbol that the manifest does not fit
        raise ValueError(f"{path}: {error}") from None
