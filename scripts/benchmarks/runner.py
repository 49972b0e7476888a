"""Times deployed nets: for each setting, a process that times all nets in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Collection, Mapping, Sequence

from benchmarks.nets import CONV, deployed_folder, facts_of
from experiments.nets import TIMED
from gluon_compress.cli.image_files import images_in
from gluon_compress.provenance import ROOT

# The format that a runtime is timed with: for one image, or for any batch.
FORMATS = {
    ("mxnet", "float32"): ("mxnet", "mxnet"),
    ("mxnet", "int8"): ("int8", "int8"),
    ("onnxruntime", "float32"): ("onnx", "onnx-dynamic"),
    ("onnxruntime", "int8"): ("onnx-int8", "onnx-int8"),
    ("openvino", "float32"): ("openvino", "openvino"),
    ("openvino", "int8"): ("onnx-int8", "onnx-int8"),
    ("ncnn", "float32"): ("ncnn", None),
    ("opencv", "float32"): ("onnx", None),
}


@dataclass(frozen=True)
class Setting:
    """What a net is run in."""

    runtime: str
    precision: str
    threads: int
    batch: int

    @property
    def format(self) -> str | None:
        """The format of a deployed folder, None if there is none for it."""
        pair = FORMATS.get((self.runtime, self.precision))
        return None if pair is None else pair[self.batch > 1]

    @property
    def is_plain(self) -> bool:
        """Whether it is one image on two threads, which aims are for."""
        return (self.threads, self.batch) == (2, 1)


def refuse_idle_images(nets: Collection[str], settings: Sequence[Setting]) -> None:
    """Raise ValueError if there is nothing that the way from images is timed with."""
    if not nets:
        raise ValueError("--images times deployed folders; none is given")
    if not any(setting.is_plain for setting in settings):
        raise ValueError("--images needs --threads 2 and --batches 1 among others")


def deployed(
    names: Sequence[str], work: Path, settings: Sequence[Setting]
) -> dict[str, Path]:
    """Return the deployed folder of each net, and of the plain convolution."""
    formats = sorted({setting.format for setting in settings if setting.format})
    return {name: deployed_folder(name, work, formats) for name in (*names, CONV)}


def trained(names: Sequence[str]) -> list[str]:
    """Return the names of trained nets, whose boxes are not everywhere."""
    return sorted(set(names) - set(TIMED))


def measure(
    folders: Mapping[str, Path], setting: Setting, seconds: float, memory: bool = True
) -> list[dict[str, Any]]:
    """Return a row for each net; without its memory, which takes a process each."""
    format_name, batch = str(setting.format), setting.batch
    facts = {name: facts_of(f, format_name) for name, f in folders.items()}
    nets = {n: (f["files"], [batch, *f["shape"][1:]]) for n, f in facts.items()}
    times = _time(setting, nets, seconds)["ms"]
    needed = {n: _time(setting, {n: nets[n]}, 0)["memory"] for n in nets if memory}
    best = _gflops(facts[CONV], times[CONV], batch)
    return [
        {
            "net": name,
            **asdict(setting),
            **_spread(times[name]),
            "images_per_second": 1e3 * batch / statistics.median(times[name]),
            "gflops": _gflops(fact, times[name], batch),
            "share_of_conv": _gflops(fact, times[name], batch) / best,
            "memory": needed.get(name),
            "bytes": fact["bytes"],
            "macs": fact["macs"],
        }
        for name, fact in facts.items()
    ]


def measure_ways(
    folder: Path, net: str, files: Sequence[Path], setting: Setting, seconds: float
) -> dict[str, Any]:
    """Return milliseconds an image of each of ``worker.WAYS``: median, quartiles."""
    task = {"folder": str(folder), "files": list(map(str, files)), "seconds": seconds}
    times = in_process("benchmarks.worker", setting, {"time": "ways", **task})
    spreads = {way: _spread(rounds) for way, rounds in times.items()}
    figures = {key: {w: s[key] for w, s in spreads.items()} for key in SPREAD}
    return {"net": net, **asdict(setting), **figures, "images": len(files)}


def _time(setting: Setting, nets: Mapping, seconds: float) -> dict[str, Any]:
    task = {"time": "nets", "nets": nets, "seconds": seconds}
    return in_process("benchmarks.worker", setting, task)


SPREAD = ("ms", "ms_quartiles")


def _spread(times: Sequence[float]) -> dict[str, Any]:
    times = times if len(times) > 1 else [*times, *times]
    low, middle, high = statistics.quantiles(times, n=4)
    return {"ms": middle, "ms_quartiles": [low, high], "runs": len(times)}


def _gflops(facts: Mapping, times: Sequence[float], batch: int) -> float:
    return 2 * facts["macs"] * batch / statistics.median(times) / 1e6


def in_process(module: str, setting: Setting, task: Mapping[str, Any]) -> Any:
    """Run a worker in a process that has the setting's threads and nothing else.

    Raises
    ------
    ValueError
        With the last line that a failed worker wrote.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(setting.threads),
        "MXNET_SUBGRAPH_VERBOSE": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]),
    }
    if setting.runtime == "mxnet":  # docs/deploy.md recommends it
        environment["OMP_WAIT_POLICY"] = "active"
    content = json.dumps({**task, **asdict(setting)})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, content],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{setting.runtime} {setting.precision}: {message}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def readable_images(folder: str, most: int) -> list[Path]:
    """Return the first image files of a folder that can be read; print what cannot.

    Raises
    ------
    ValueError
        If none can be read.
    """
    from gluon_compress.data.images import read_image

    files, readable = images_in(folder), []
    for file in files:
        if len(readable) == most:
            break
        try:
            read_image(file)
        except ValueError as error:
            print(f"skipped: {error}")
        else:
            readable.append(file)
    if not readable:
        raise ValueError(f"{folder}: none of its {len(files)} images can be read")
    return readable
