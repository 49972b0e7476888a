"""Times the nets of a bundle in their runtime, and leaves a latency table.

Beside this file it needs Python, NumPy, the runtime, and ``device_runtimes.py``, which
lies in the same folder of a bundle:

    python measure.py --threads 1

Nets are timed in pairs, a few equal blocks and more of them, in turns. What is timed is
kept at once, so that the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

BUNDLE, TIMES, FORMAT = "bundle.json", "times.json", 2
WARM_UP, LEAST_RUNS, MOST_RUNS = 2, 5, 60
REFERENCE = -1  # which of the whole nets is timed from time to time
SECONDS = 0.25  # of runs of a pair
SECONDS_OF_NET = 2.5  # of a whole net
CHECK_SECONDS = 20  # between two looks at the machine
PRINT_SECONDS = 10
PATIENCE, PAUSE = 12, 10  # looks at a busy machine, and seconds between them
FEATURES = "avx avx2 fma avx512f avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16"
FEATURES += " neon asimd asimddp asimdhp i8mm bf16 sve rvv"
MODULES = {
    "mxnet": "mxnet",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "opencv": "cv2",
}


class Busy(ValueError):
    """The machine does not compute at one speed."""


class Runs:
    """Opens nets of a bundle and times them.

    Parameters
    ----------
    folder : Path
    bundle : dict
        What ``bundle.json`` holds.
    threads : int
    """

    def __init__(self, folder: Path, bundle: dict, threads: int) -> None:
        self._folder, self._bundle, self._threads = folder, bundle, threads
        self._runtimes = _runtimes()

    def open(self, net: dict) -> Callable[[], float]:
        """Return what runs a net once and tells the milliseconds."""
        bundle = self._bundle
        threads = None if bundle["runtime"] == "mxnet" else self._threads
        options = bundle.get("options", {})
        with tempfile.TemporaryDirectory() as place:
            with zipfile.ZipFile(self._folder / net["archive"]) as archive:
                archive.extractall(place)
            files = [Path(place, name) for name in net["files"]]
            run = self._runtimes[bundle["runtime"]].open(files, threads, **options)
        noise = np.random.RandomState(0).standard_normal(net["shape"])
        return warmed_up(run, noise.astype(np.float32), self._threads)


def warmed_up(run: Callable, batch: np.ndarray, threads: int) -> Callable[[], float]:
    """Return what runs a net on a batch and tells the milliseconds.

    Other processes on the core do not add to the time of this one. Threads that wait
    for each other do, so that several are timed by the clock on the wall.
    """
    clock = time.process_time if threads == 1 else time.perf_counter

    def timed() -> float:
        start = clock()
        run(batch)
        return 1e3 * (clock() - start)

    for _ in range(WARM_UP):
        timed()
    return timed


def in_turns(runs: Sequence[Callable[[], float]], seconds: float) -> list[list[float]]:
    """Return the milliseconds of each run of several nets, which take turns."""
    times: list[list[float]] = [[] for _ in runs]
    end, rounds = time.monotonic() + seconds, 0
    while rounds < LEAST_RUNS or (rounds < MOST_RUNS and time.monotonic() < end):
        for run, spent in zip(runs, times):
            run()  # brings its weights back into the cache
            spent.append(run())
        rounds += 1
    return times


class ReferenceNet:
    """A net that is timed from time to time, to see if the machine keeps its speed.

    Parameters
    ----------
    run : callable
        Runs it once and tells the milliseconds.
    allowed : float
        How much slower it may become, as a share.
    best : float
        Its smallest time before, in milliseconds.
    """

    def __init__(
        self, run: Callable[[], float], allowed: float, best: float = math.inf
    ) -> None:
        self._run, self._allowed, self._last = run, allowed, -math.inf
        self.best, self.spread = best, 0.0

    def check(self) -> None:
        """Wait until the machine is as fast as before.

        Raises
        ------
        Busy
            If it stays slower.
        """
        if time.monotonic() - self._last < CHECK_SECONDS:
            return
        for look in range(PATIENCE):
            (times,) = in_turns([self._run], 0.5)
            now, middle = min(times), statistics.median(times)
            self.best = min(self.best, now)
            slower, uneven = now / self.best - 1, middle / now - 1
            if max(slower, uneven) <= self._allowed:
                self.spread = max(self.spread, slower, uneven)
                self._last = time.monotonic()
                return
            if look == 0:
                print(f"waiting: {_why(slower, uneven, self._allowed)}", flush=True)
            time.sleep(PAUSE)
        raise Busy(_why(slower, uneven, self._allowed))


def _why(slower: float, uneven: float, allowed: float) -> str:
    if slower > allowed:
        return (
            f"the machine is busy or throttles: a net takes {1 + slower:.2f} times as "
            f"long as before; allowed: {1 + allowed:.2f}"
        )
    return (
        f"the machine is busy: the median of a net is {1 + uneven:.2f} times its "
        f"smallest time; allowed: {1 + allowed:.2f}"
    )


class ProgressLines:
    """Prints at most every few seconds how far the work is."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock, self._begin = total, clock, clock()
        self._printed = -math.inf
        self._first: int | None = None

    def tell(self, done: int) -> None:
        """Print a line, unless one was printed a moment ago."""
        now = self._clock()
        if self._first is None:
            self._first = done
        if now - self._printed < PRINT_SECONDS and done < self._total:
            return
        self._printed, new = now, done - self._first
        left = ""
        if new and done < self._total:
            seconds = (now - self._begin) / new * (self._total - done)
            left = f", about {math.ceil(seconds / 60)} min left"
        print(f"{done} of {self._total} blocks and nets{left}", flush=True)


def measure(folder: Path, table: Path, threads: int, allowed: float) -> None:
    """Time what is missing, and write the table.

    Parameters
    ----------
    folder : Path
        The bundle.
    table : Path
    threads : int
    allowed : float
        How much equal measurements may differ, as a share.

    Raises
    ------
    ValueError
        If the runtime is missing, times are of another machine, or it is too busy.
    """
    bundle = _read(folder / BUNDLE)
    machine = machine_of(bundle, threads)
    times = _earlier(folder / TIMES, machine)
    runs, kept = Runs(folder, bundle, threads), times["ms"]
    work = [*bundle["pairs"], *bundle["steps"], *bundle["nets"]]
    progress = ProgressLines(len(work))
    left = [one for one in work if one["name"] not in kept]
    reference = None
    if left:
        run = runs.open(bundle["nets"][REFERENCE])
        reference = ReferenceNet(run, allowed, times.get("reference", math.inf))
    for number, one in enumerate(left):
        progress.tell(len(work) - len(left) + number)
        assert reference is not None
        reference.check()
        nets = one.get("nets") or [one]
        seconds = SECONDS if "nets" in one else SECONDS_OF_NET
        spent = in_turns([runs.open(net) for net in nets], seconds)
        kept[one["name"]] = [min(row) for row in spent]
        if "nets" not in one:
            kept[one["name"]].append(statistics.median(spent[0]))
        times["reference"] = reference.best
        times["spread"] = max(times["spread"], reference.spread)
        _write(folder / TIMES, times)
    progress.tell(len(work))
    machine["spread"] = f"{times['spread']:.3f}"
    _write(table, table_of(bundle, kept, machine))


def table_of(bundle: dict, kept: dict, machine: dict) -> dict:
    """Return the table as JSON: the difference of each pair is that of its blocks.

    Parameters
    ----------
    bundle : dict
    kept : dict
        Name of a pair or net to its times, milliseconds.
    machine : dict
    """
    units: dict[str, dict] = {}
    for pair in bundle["pairs"]:
        unit = bundle["units"][pair["signature"]]
        entry = units.setdefault(
            pair["signature"],
            {
                **unit,
                "ms": [[None] * len(unit["outs"]) for _ in unit["ins"]],
            },
        )
        row, column = unit["ins"].index(pair["ins"]), unit["outs"].index(pair["outs"])
        entry["ms"][row][column] = _per_block(pair, kept)
    for unit in units.values():  # a block without channels takes no time
        unit["ms"] = [[ms or 0.0 for ms in row] for row in unit["ms"]]
    nets = [
        {"name": net["name"], "blocks": net["blocks"], "ms": kept[net["name"]][0]}
        for net in bundle["nets"]
    ]
    steps = {str(one["width"]): _per_block(one, kept) for one in bundle["steps"]}
    content = {"format": FORMAT, "machine": machine, "steps": steps}
    return {**content, "units": units, "nets": nets}


def _per_block(pair: dict, kept: dict) -> float:
    """Return the milliseconds of one block; 0 if too short to measure."""
    few, many = kept[pair["name"]]
    counts = [net["count"] for net in pair["nets"]]
    return max(many - few, 0.0) / (counts[1] - counts[0])


def machine_of(bundle: dict, threads: int) -> dict[str, str]:
    """Return what times depend on, as texts by name.

    Raises
    ------
    ValueError
        If the runtime cannot be imported.
    """
    runtime = bundle["runtime"]
    try:
        module = importlib.import_module(MODULES[runtime])
    except ImportError as error:
        raise ValueError(f"{runtime} cannot be imported: {error}") from None
    cpu, features = _cpu()
    version = re.match(r"[\w.]+", str(getattr(module, "__version__", "unknown")))
    return {
        "runtime": runtime,
        "precision": bundle["precision"],
        "threads": str(threads),
        "cpu": cpu,
        "instructions": features,
        "version": version[0] if version else "unknown",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> tuple[str, str]:
    """Return the name of the processor, and those of its features that matter."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = [
        re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        for key in ("model name", "Model", "Hardware")
    ]
    name = next((match[1].strip() for match in found if match), "")
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    features = " ".join(f for f in FEATURES.split() if f in known)
    return name or platform.processor() or platform.machine(), features


def _runtimes() -> dict[str, Any]:
    """Return the runtimes, of the package or of the file beside this one."""
    beside = "gluon_compress.deployment.runtimes" if __package__ else "device_runtimes"
    return importlib.import_module(beside).RUNTIMES


def _earlier(path: Path, machine: dict) -> dict:
    """Return the times that an earlier run has left, or none yet.

    Raises
    ------
    ValueError
        If they are of another machine.
    """
    if not path.exists():
        return {"machine": dict(machine), "spread": 0.0, "ms": {}}
    times = _read(path)
    for name, value in machine.items():
        if times["machine"].get(name) != value:
            raise ValueError(
                f"{path}: was measured with {name} {times['machine'].get(name)!r}, now "
                f"it is {value!r}; move it away to start anew"
            )
    return times


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def _write(path: Path, content: Any) -> None:
    """Write JSON; a stop leaves the file as it was."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says; bad input is one line and status 2."""
    parser = argparse.ArgumentParser(
        description="Time blocks of nets in one runtime, into a latency table.",
    )
    here = Path(__file__).resolve().parent
    parser.add_argument("--bundle", type=Path, default=here, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument(
        "--table", type=Path, default=Path("latency.json"), help="written at the end"
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=0.1,
        help="how much equal measurements may differ; default: 0.1",
    )
    args = parser.parse_args(arguments)
    try:
        if args.threads < 1:
            raise ValueError(f"--threads is {args.threads}; allowed: from 1")
        measure(args.bundle, args.table, args.threads, args.spread)
    except (ValueError, OSError) as error:
        line = " ".join(str(error).split())
        print(f"{parser.prog}: error: {line[:280]}", file=sys.stderr)
        sys.exit(2)
    print(args.table)


if __name__ == "__main__":
    main()
