"""Rows of a benchmark: for each setting a process that times all nets in turn."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Mapping, Sequence

from speed.alone import alone
from speed.convolution import CONV
from speed.nets import facts_of, folder_of
from speed.settings import Setting


def deployed(names: Sequence[str], place: Path, formats: Sequence[str]) -> dict:
    """Return the folder of each net, and of the plain convolution."""
    return {name: folder_of(name, place, formats) for name in (*names, CONV)}


def measure(folders: Mapping, setting: Setting, seconds: float) -> list[dict]:
    """Return a row for each net."""
    facts = {name: facts_of(f, setting.format) for name, f in folders.items()}
    batch = setting.batch
    nets = {n: (f["files"], [batch, *f["shape"][1:]]) for n, f in facts.items()}
    times = _run(setting, nets, seconds)["ms"]
    memory = {n: _run(setting, {n: net}, 0)["memory"] for n, net in nets.items()}
    best = _gflops(facts[CONV], times[CONV], batch)
    return [
        {
            "net": name,
            **vars(setting),
            **_spread(times[name]),
            "images_per_second": 1e3 * batch / statistics.median(times[name]),
            "gflops": _gflops(f, times[name], batch),
            "share_of_conv": _gflops(f, times[name], batch) / best,
            "memory": memory[name],
            "bytes": f["bytes"],
            "macs": f["macs"],
        }
        for name, f in facts.items()
    ]


def _run(setting: Setting, nets: Mapping, seconds: float) -> dict:
    return alone("speed.worker", setting, {"nets": nets, "seconds": seconds})


def measure_ways(
    folder: Path, net: str, files: Sequence[Path], setting: Setting, seconds: float
) -> dict:
    """Return milliseconds an image of each of ``ways.WAYS``, medians of rounds."""
    task = {"folder": str(folder), "files": list(map(str, files)), "seconds": seconds}
    times = alone("speed.ways", setting, task)
    middles = {way: statistics.median(found) for way, found in times.items()}
    return {"net": net, **vars(setting), "ms": middles, "images": len(files)}


def _spread(times: Sequence[float]) -> dict:
    low, middle, high = statistics.quantiles(times, n=4)
    return {"ms": middle, "ms_quartiles": [low, high], "runs": len(times)}


def _gflops(facts: Mapping, times: Sequence[float], batch: int) -> float:
    return 2 * facts["macs"] * batch / statistics.median(times) / 1e6
