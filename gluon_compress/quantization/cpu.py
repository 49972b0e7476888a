"""Asks the CPU for dot products of 8-bit numbers."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# x86: VNNI for AVX-512 and AVX. ARM's products of signed numbers do not saturate.
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")


@lru_cache(maxsize=None)
def dot_product_feature() -> str:
    """Return the feature by which this CPU sums products of 8-bit numbers exactly.

    Returns
    -------
    str
        For instance ``avx512_vnni``; empty if there is none, or it is not known.
    """
    return feature_in(_cpuinfo())


def feature_in(cpuinfo: str) -> str:
    """Return the feature that a text like ``/proc/cpuinfo`` states, or an empty one."""
    words = set(cpuinfo.split())
    return next((name for name in DOT_PRODUCTS if name in words), "")


def _cpuinfo() -> str:
    try:
        return CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        is_arm = platform.machine().lower() in ("arm64", "aarch64")
        return "asimddp" if is_arm else ""
