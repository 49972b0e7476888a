"""What several ranks that run a recipe must agree on, and where each of them writes.

All ranks run all stages of a recipe on the same values, so that they come to the same
nets. Rank 0 alone measures, exports and writes into the folder of the run. The others
write what a stage leaves behind into a folder of their own, which is removed.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from gluon_compress import train
from gluon_compress.distributed import SCRATCH, digest
from gluon_compress.provenance import environment
from gluon_compress.recipe import Recipe
from gluon_compress.storage.locks import LOCK

SEEN = (
    "path",
    "label",
)  # methods of data sets that tell of an image without reading it


def agree_on_recipe(recipe: Recipe, options: train.Options) -> None:
    """Refuse to begin with ranks of another code, recipe or kind of training.

    Raises
    ------
    ValueError
        On all ranks; it names the rank, the fact and both values.
    """
    if options.ranks.size == 1:
        return
    here, content = environment(), recipe.to_json()
    facts = {
        "commit": here["commit"],
        "modified": here["modified"],
        **{name: here["versions"][name] for name in ("gluon_compress", "mxnet")},
        "kvstore": options.kvstore,
        "gradient_threshold": options.gradient_threshold,
        "exact_sums": options.exact_sums,
        "number of devices": len(options.ctx),
        "seed": recipe.seed,
        **{
            f"the recipe's {key!r}": _short(value)
            for key, value in content.items()
            if key != "seed"
        },
    }
    options.ranks.agree("recipe", facts)


def agree_on_files(out: Path, ranks: Any) -> None:
    """Refuse to go on with ranks that see other files of the run.

    Raises
    ------
    ValueError
        On all ranks; it names the rank, the file and both sizes.
    """
    if ranks.size == 1:
        return
    facts = {}
    for path in sorted(out.rglob("*")) if out.is_dir() else ():
        if path.is_file() and not path.name.endswith(LOCK):
            facts[f"{out / path.relative_to(out)}"] = f"{path.stat().st_size} bytes"
    ranks.agree("files", facts)


def agree_on_start(job: Any, nets: Sequence[HybridBlock]) -> None:
    """Refuse to train with ranks that have other images or begin with other values.

    Raises
    ------
    ValueError
        On all ranks; it names the rank, the fact and both values.
    """
    ranks = job.options.ranks
    if ranks.size == 1:
        return
    facts: Dict[str, Any] = {"classes": _short(job.classes)}
    for name in ("train", "val", "test"):
        facts[f"the {name} images"] = images_of(getattr(job.splits, name))
    mx.nd.waitall()
    for name, net in zip(("model", "student"), nets):
        values = [p.list_data()[0].asnumpy() for p in net.collect_params().values()]
        facts[f"the values of the {name}"] = digest(*values)
    for folder in _teachers(job.recipe):
        manifest = Path(folder) / "manifest.json"  # with a checksum of each file
        content = digest(manifest.read_bytes()) if manifest.is_file() else None
        facts[f"the teacher {folder}"] = content
    ranks.agree("start", facts)


def images_of(dataset: Any) -> str:
    """Return how many images a data set has, and a digest of their names and labels."""
    parts: list = [json.dumps(list(dataset.classes)).encode()]
    for index in range(len(dataset)):
        for name in SEEN:
            if hasattr(dataset, name):
                told = getattr(dataset, name)(index)
                is_array = isinstance(told, np.ndarray)
                # The folder may have another name on another host.
                parts.append(told if is_array else Path(str(told)).name.encode())
    return f"{len(dataset)}, {digest(*parts)}"


def scratch() -> TemporaryDirectory:
    """Return a folder for what a rank other than 0 leaves behind."""
    # The launcher removes its own, also after a rank that was killed.
    return TemporaryDirectory(prefix="rank_", dir=os.environ.get(SCRATCH))


def copied(out: Path, folder: Path, resume: bool) -> Path:
    """Return the folder that a rank other than 0 writes to: a copy of the run's."""
    own = folder / "run"
    if resume and out.is_dir():
        ignore = shutil.ignore_patterns(f"*{LOCK}")
        shutil.copytree(out, own, ignore=ignore)
    return own


def _teachers(recipe: Any) -> list[str]:
    settings = recipe.distillation
    folders = [getattr(settings, "teacher", None)]
    return [f for f in [*folders, *(getattr(settings, "teachers", None) or ())] if f]


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 40 else digest(text.encode())
