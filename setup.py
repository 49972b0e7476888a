"""Installs the package; the pins are the versions it is tested with."""

import runpy
import sys
from pathlib import Path

from setuptools import find_packages, setup

if not (3, 8) <= sys.version_info[:2] <= (3, 11):  # older pips find it out too late
    sys.exit(f"gluon_compress needs Python 3.8 to 3.11; this is {sys.version}")

# MXNet 1.9.1 writes ONNX with up to 1.16; ONNX Runtime quantises with ml_dtypes.
ONNX = ["onnx==1.16.2", "onnxruntime>=1.16,<2", "ml_dtypes<0.6"]
# 2023.5 is the last for Python 3.8. Both come in pairs of one version.
SWEEPS = ["dask>=2023.5,<2027", "distributed>=2023.5,<2027"]
ZOO = "gluon_compress.model_zoo"
ROOT = Path(__file__).resolve().parent
VERSION = runpy.run_path(str(ROOT / "gluon_compress" / "version.py"))["__version__"]
README = ROOT / "README.md"
# Index, structures, plans and recipes of models. Experiments stay in the checkout, and
# weights are a package of their own, see packaging/weights.
MODELS = [folder.parent.name for folder in ROOT.glob("model_zoo/*/recipe.json")]

setup(
    name="gluon_compress",
    version=VERSION,
    description="Lightweight object detectors by model compression, on MXNet Gluon",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["gluon_compress", "gluon_compress.*"]), ZOO],
    package_dir={ZOO: "model_zoo"},
    package_data={
        ZOO: ["index.json", *(f"{name}/*.json" for name in sorted(MODELS))],
        "gluon_compress.deployment": ["web/*"],
        "gluon_compress.report": ["*.html"],
    },
    python_requires=">=3.8,<3.12",
    entry_points={"console_scripts": ["gluon-compress=gluon_compress.cli:main"]},
    install_requires=[
        "mxnet==1.9.1",
        "gluoncv==0.10.5.post0",
        "numpy==1.23.5",  # MXNet 1.9.1 uses names that 1.24 dropped
        "opencv-python==4.11.0.86",
        "requests>=2.28,<3",
        "urllib3>=1.26,<3",
        "pooch>=1.8,<2",  # fetches weights and data sets
        "pydantic>=2.8,<3",  # 2.10 is the last for Python 3.8
        "typing_extensions>=4.6,<5",
        "jinja2>=3.1,<4",
        "markupsafe>=2.1,<4",
        "tabulate>=0.9,<0.11",
        "matplotlib>=3.7,<3.11",  # 3.7 is the last for Python 3.8
        "tqdm>=4.64,<5",
        # GluonCV asks for any; newer ones want a newer numpy, which pip finds out
        # only after it has downloaded them.
        "pandas<3",
        "scipy<1.16",
    ],
    extras_require={
        "coco": ["pycocotools>=2.0.6,<3"],
        "sweeps": SWEEPS,  # tasks on several processes or machines
        # Each brings a runtime, and what writes its files.
        "onnx": ONNX,
        "openvino": [*ONNX, "openvino==2023.3.0"],
        "ncnn": [*ONNX, "ncnn==1.0.20260526"],  # its converter: docs/deploy.md
        "dev": [
            *ONNX,
            *SWEEPS,
            "openvino==2023.3.0",
            "ncnn==1.0.20260526",
            "pytest>=8,<10",
            "pytest-xdist>=3.5,<4",
            "import-linter>=2,<3",
            "mypy>=1.11,<3",
            "pycocotools>=2.0.6,<3",
            "types-requests",
            "types-tabulate",
            "ruff==0.17.5",
            "pre-commit>=3.5,<5",
        ],
    },
)
