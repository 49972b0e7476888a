"""Records where a result comes from: commit, hardware, versions, and earlier runs.

Imports nothing but the standard library, so that it is cheap to ask.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path, PurePosixPath
from typing import Any, Mapping

# Of the checkout that this file is part of; no checkout where the package is installed.
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gluon_compress", "mxnet", "gluoncv", "numpy", "opencv-python")
OPTIONAL_PACKAGES = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx")


def environment() -> dict[str, Any]:
    """Return the commit, date, hardware and versions that a result is made with.

    Returns
    -------
    dict
        ``commit`` (str) and ``modified`` (bool, whether tracked files differ from the
        commit), both None outside a checkout; ``date`` in UTC; ``hardware`` with
        ``cpu``, ``cores`` and ``threads``; ``versions`` of Python and packages, None
        for one that is not installed.
    """
    revision, changes = commit(), _git("status", "--porcelain", "-uno")
    return {
        "commit": revision,
        "modified": None if revision is None else bool(changes),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": {"cpu": cpu_name(), "cores": cores(), "threads": threads()},
        "versions": {"python": platform.python_version(), **_package_versions()},
    }


def commit() -> str | None:
    """Return the commit of the checkout; None outside one."""
    return _git("rev-parse", "HEAD")


def runs_of(recipe: Mapping[str, Any]) -> list[PurePosixPath]:
    """Return what a recipe starts from of other runs: ``runs/NAME/...``, each once.

    Parameters
    ----------
    recipe : mapping
        JSON; the settings of its nets and of its teachers are looked at.
    """
    parts = [recipe.get(part) or {} for part in ("model", "student", "distillation")]
    values = [value for part in parts for value in part.values()]
    texts = [t for v in values for t in (v if isinstance(v, (list, tuple)) else [v])]
    runs = [text for text in texts if isinstance(text, str) and text[:5] == "runs/"]
    return [PurePosixPath(run) for run in dict.fromkeys(runs)]


def cpu_name() -> str:
    """Return the model name of this machine's processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1) if model else platform.processor() or platform.machine()


def cores() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads() -> int:
    """Return how many threads MXNet computes with: OMP_NUM_THREADS, or every core."""
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(setting) if setting.isdigit() and int(setting) > 0 else cores()


def _git(*command: str) -> str | None:
    if not (ROOT / ".git").exists():  # another project's repository may be around us
        return None
    # Without it, git writes its index, and leaves a lock where the disk is full.
    git = ("git", "--no-optional-locks", "-C", str(ROOT))
    try:
        return subprocess.check_output(
            [*git, *command], text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _package_versions() -> dict[str, str | None]:
    versions = {name: _version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)}
    return {n: v for n, v in versions.items() if n in PACKAGES or v is not None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
