"""Models on the command line: a folder, or the name of a released model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gluon_compress.cli.options import loading_options


def is_released(model: str) -> bool:
    """Return whether a text is the name of a released model, and no path."""
    from gluon_compress.zoo.index import read

    return not Path(model).exists() and model in read()


def load_net(model: str) -> Any:
    """Return the net of a model folder, or a released one with its weights.

    Raises
    ------
    ValueError
        If it is neither, or cannot be loaded.
    """
    from gluon_compress import models
    from gluon_compress.zoo import get_model

    return (
        get_model(model, pretrained=True) if is_released(model) else models.load(model)
    )


def manifest_of(model: str) -> dict[str, Any]:
    """Return the manifest of a model folder, or of a released model."""
    from gluon_compress.model_folder import read_manifest
    from gluon_compress.zoo.index import folder

    return read_manifest(folder() / model if is_released(model) else model)


def open_predictor(args: argparse.Namespace) -> Any:
    """Return the predictor of ``args.model``, with the options of ``add_runtime``.

    Raises
    ------
    ValueError
        As ``detector.load_predictor`` does; for a released model with a runtime, which
        needs the files that ``export`` writes.
    """
    from gluon_compress.detector import load_predictor, predictor_of

    if not is_released(args.model):
        return load_predictor(args.model, **loading_options(args))
    if args.runtime is not None:
        raise ValueError(
            f"--runtime {args.runtime}: {args.model} is a released model; allowed: a "
            f"deployed folder, as gluon-compress export {args.model} --formats writes"
        )
    options = loading_options(args, folder=None)
    return predictor_of(load_net(args.model), options["ctx"])


def open_detector(args: argparse.Namespace) -> Any:
    """Return the detector of ``args.model``; as ``open_predictor``.

    Raises
    ------
    ValueError
        Also for a model that finds no boxes.
    """
    from gluon_compress.detector import Detector

    predictor = open_predictor(args)
    if not predictor.postprocess.finds_boxes:
        raise ValueError(f"{args.model}: finds no boxes; allowed: a detector")
    return Detector(predictor)
