"""What a result.json says beside its figures: commit, date, hardware, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gluon_compress", "mxnet", "gluoncv", "numpy", "opencv-python")
EXTRAS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx")  # where installed


def environment() -> dict:
    """Return the commit, date, hardware and versions that a result was made with.

    Outside a checkout, ``commit`` and ``modified`` (whether tracked files differ from
    the commit) are None.
    """
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return {
        "commit": commit,
        "modified": None if commit is None else bool(changed),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": {"cpu": _cpu(), "cores": cores(), "threads": _threads()},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _git(*command: str) -> str | None:
    if not (ROOT / ".git").exists():  # another project's repository may be around us
        return None
    try:
        return subprocess.check_output(
            ["git", "-C", str(ROOT), *command], text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
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


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(given) if given.isdigit() else cores()


def _versions() -> dict[str, str | None]:
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    names = (*PACKAGES, *(name for name in EXTRAS if name in found))
    return {name: found.get(name) for name in names}
