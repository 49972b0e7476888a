"""Returns models by name, with the interface of GluonCV's ``get_model``."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Iterator, Mapping, Sequence

import mxnet as mx
import requests
from gluoncv.model_zoo import get_model as gluoncv_model
from gluoncv.model_zoo import get_model_list
from mxnet.gluon import HybridBlock

from gluon_compress import models
from gluon_compress.building import build
from gluon_compress.graph.symbol_files import read_symbol
from gluon_compress.graph.symbols import infer_shapes
from gluon_compress.model_folder import check_stated, export, read_manifest
from gluon_compress.models import family_named, family_that_builds
from gluon_compress.models.initialize import with_missing_initialized
from gluon_compress.models.saving import check_manifest
from gluon_compress.storage.atomic import sha256
from gluon_compress.validation import class_names, shown
from gluon_compress.zoo import weights
from gluon_compress.zoo.index import folder, read, training_of, unknown


def get_model(
    name: str,
    *,
    pretrained: bool = False,
    root: str | os.PathLike | None = None,
    ctx: Any = None,
    classes: Sequence[str] | None = None,
    pretrained_base: bool | None = None,
    **others: Any,
) -> HybridBlock:
    """Return a model by name, with its weights if asked for.

    Parameters
    ----------
    name : str
        One of ``list_models``, a model that ``build`` knows, or any of GluonCV's.
    pretrained : bool
        With weights: from this package's ``model_zoo``, the cache, or the address in
        ``GLUON_COMPRESS_REPO``. They are checked before use.
    root : path, optional
        The cache. Default: ``models`` in ``~/.mxnet``, or in ``MXNET_HOME``.
    ctx : Context or list of Context, optional
        Default: the CPU.
    classes : sequence of str, optional
        Replace the model's own classes. The layers that score classes are new then;
        all others keep their weights.
    pretrained_base : bool, optional
        Weights for the backbone alone, without ``pretrained``: the model's own, or
        GluonCV's from ImageNet for a full detector. Default: none, and for GluonCV's
        models what GluonCV does.
    **others
        Passed on to GluonCV for its models, and to ``build`` for models it knows.

    Returns
    -------
    HybridBlock
        Of one of ``models.FAMILIES``, or GluonCV's own.

    Raises
    ------
    ValueError
        For an unknown name (the message suggests similar ones), a model without weights
        (the message states the command that trains them), weights that cannot be
        fetched, classes that are not distinct names, or a device that does not exist.
    OSError
        If the cache cannot be written; the file is named.
    """
    if not isinstance(name, str):
        raise unknown(name, ())
    entries = read()
    if classes is not None and (name in entries or _is_built_here(name)):
        classes = class_names(classes)
    if name not in entries:
        options = {
            "pretrained": pretrained,
            "pretrained_base": pretrained_base,
            "root": root,
            "ctx": ctx,
            "classes": classes,
        }
        return _not_in_zoo(name, options, others)
    if others:
        raise ValueError(f"{min(others)}: not a setting of {name!r}")
    entry = entries[name]
    values: dict = {}
    if pretrained or pretrained_base:
        values = weights.load(weights.find(entry, root))
    net = load_folder(folder() / entry.name, values, trunk_only=not pretrained)
    if classes not in (None, entry.classes):
        net = models.with_classes(net, classes)
    return to_device(net, ctx)


def load_folder(
    path: str | os.PathLike,
    values: Mapping[str, mx.nd.NDArray] = MappingProxyType({}),
    *,
    trunk_only: bool = False,
) -> HybridBlock:
    """Return the model of a folder of the zoo.

    Parameters
    ----------
    path : path
    values : mapping
        As ``weights.load`` returns them; parameters without one are initialised.
    trunk_only : bool
        Use the values of the backbone only, of a classifier all but the last layer.

    Raises
    ------
    ValueError
        If the values do not fit this model, or its symbol file was altered.
    """
    path = Path(path)
    manifest = read_manifest(path)
    file = path / f"{manifest['name']}-symbol.json"
    stated = manifest["files"].get(file.name, {})
    if not file.is_file() or sha256(file) != stated.get("sha256"):
        raise ValueError(f"{file}: missing or altered, its sha256 differs")
    symbol, family = read_symbol(file), family_named(manifest.get("kind"))
    check_stated(symbol, manifest, path)
    if values:
        _check_values(symbol, values, manifest)
    if trunk_only:
        names = family.trunk_parameters(symbol)
        values = {name: v for name, v in values.items() if name in names}
    size = manifest["input"]["shape"][-2:]
    values = with_missing_initialized(symbol, values, size)
    net = family.from_symbol(symbol, values, family.config_from_manifest(manifest))
    check_manifest(net, manifest)
    return net


def _check_values(symbol: mx.sym.Symbol, values: Mapping, manifest: Mapping) -> None:
    expected, _ = infer_shapes(symbol, {"data": tuple(manifest["input"]["shape"])})
    del expected["data"]
    actual = {name: value.shape for name, value in values.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ValueError(
                f"model {shown(manifest['name'])}: {shown(name)} is "
                f"{actual.get(name)} in its weights; its structure has "
                f"{expected.get(name)}"
            )


def _is_built_here(name: str) -> bool:
    """Return whether a name is a model of a family and not one of GluonCV's."""
    return name.lower() not in get_model_list() and family_that_builds(name) is not None


def _not_in_zoo(name: str, options: dict, others: dict) -> HybridBlock:
    """Return an untrained model of a family, or one of GluonCV's own."""
    if _is_built_here(name):
        return _untrained(name, options, others)
    gluoncv_names = list(get_model_list())
    if str(name).lower() not in gluoncv_names:
        made_by = training_of(str(name))
        if made_by is not None:
            raise ValueError(f"model {name!r} is a recipe, without weights; {made_by}")
        raise unknown(name, sorted({*read(), *_all_models(), *gluoncv_names}))
    options = {key: value for key, value in options.items() if value is not None}
    with _fetching(name):
        return gluoncv_model(name, **options, **others)


def _untrained(name: str, options: dict, others: dict) -> HybridBlock:
    if options["pretrained"]:
        made_by = training_of(name)
        raise ValueError(
            f"model {name!r} has no weights of its own; pretrained_base=True gives its "
            f"trunk GluonCV's{'' if made_by is None else f'; {made_by}'}"
        )
    classes = models.VOC_CLASSES if options["classes"] is None else options["classes"]
    if not options["pretrained_base"]:
        return to_device(build(name, classes, **others), options["ctx"])
    family = family_that_builds(name)
    assert family is not None  # see _is_built_here
    backbone = family.backbone_of(name)
    if backbone is None:
        raise ValueError(f"model {name!r} has no backbone of GluonCV's to fetch")
    root = {} if options["root"] is None else {"root": str(options["root"])}
    with _fetching(backbone):
        trunk = gluoncv_model(backbone, pretrained=True, **root)
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch, "trunk")
        export(trunk, exported, shape=(1, 3, 224, 224))
        net = build(name, classes, trunk=exported, **others)
    return to_device(net, options["ctx"])


def _all_models() -> set[str]:
    return {name for family in models.FAMILIES.values() for name in family.models()}


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Turn a failed download of GluonCV into a one-line error."""
    try:
        yield
    except requests.RequestException as error:
        address = getattr(error.request, "url", None) or "its server"
        raise ValueError(
            f"model {name!r}: GluonCV cannot fetch its weights from {address}: "
            f"{type(error).__name__}; without a connection, put them into the cache"
        ) from None


def to_device(net: HybridBlock, ctx: Any) -> HybridBlock:
    """Move a net to a device or to several, and return it."""
    if ctx is not None:
        for device in ctx if isinstance(ctx, (list, tuple)) else [ctx]:
            if not isinstance(device, mx.Context):
                raise ValueError(f"ctx {device!r}; allowed: contexts, as mx.cpu()")
        try:
            net.collect_params().reset_ctx(ctx)
        except mx.MXNetError as error:  # its message is a C++ trace
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"ctx {ctx}: cannot be used: {reason}") from None
    return net
