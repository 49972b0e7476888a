"""Builds ``gluon_compress_weights``: the released models, with their weights.

The package holds no code. Where it is installed, ``gluon_compress`` finds weights in
it. Build it in a checkout, with ``make wheel``. A full backbone, which only training
needs, is left out: package indexes take files of up to 100 MB.
"""

import json
import os
import runpy
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VERSION = runpy.run_path(str(ROOT / "gluon_compress" / "version.py"))["__version__"]
INDEX = json.loads((ROOT / "model_zoo" / "index.json").read_text(encoding="utf-8"))
LARGEST = 20_000_000  # bytes of a model's weights
MODELS = [
    model["name"]
    for model in INDEX["models"]
    if model["weights"] and model["weights"]["bytes"] <= LARGEST
]
NAME = "gluon_compress_weights"

os.chdir(HERE)  # setuptools reads package_dir from here
setup(
    name=NAME,
    version=VERSION,
    description="Weights of the models of gluon_compress",
    license="Apache-2.0; the terms of each model's images are in its README.md",
    packages=[NAME],
    package_dir={NAME: os.path.relpath(ROOT / "model_zoo", HERE)},
    package_data={
        NAME: [f"{name}/*.{end}" for name in MODELS for end in ("json", "params", "md")]
    },
)
