"""Measures a latency table of a runtime on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

from gluon_compress.deployment.deployable import Deployable
from gluon_compress.deployment.latency import runner
from gluon_compress.deployment.latency.bundle import write_bundle, written
from gluon_compress.deployment.latency.timings import timing_of
from gluon_compress.graph import Graph
from gluon_compress.latency.runtime_table import RuntimeTable, check_target
from gluon_compress.latency.table import LatencyTable
from gluon_compress.provenance import cpu_name
from gluon_compress.storage.atomic import read_json, write_json

WORK = ".work"  # ending of the folder beside a table that is not complete


def measure_table(
    graph: Graph,
    file: Path,
    runtime: str,
    precision: str,
    threads: int,
    *,
    spread: float = 0.1,
    progress: Callable[[int, int], None] | None = None,
) -> RuntimeTable:
    """Measure what a table lacks for a net, and write it.

    Blocks are written to a folder beside the table, where a stopped call goes on.

    Parameters
    ----------
    graph : Graph
        Traced for one image, with values.
    file : Path
        Made or extended.
    runtime, precision : str
    threads : int
    spread : float
        How much equal measurements may differ, as a share.
    progress : callable, optional
        ``progress(done, total)`` while blocks are written; the timing itself prints.

    Raises
    ------
    ValueError
        If the file is a table of something else, or the machine is too busy.
    """
    known = known_table(file, runtime, precision, threads)
    work = file.with_name(file.name + WORK)
    total = write_bundle(
        graph, work, runtime, precision, known=known, progress=progress
    )
    if total:
        time_bundle(work, work / "table.json", runtime, threads, spread)
        newer = LatencyTable.load(work / "table.json")
        assert isinstance(newer, RuntimeTable)
        known = known.merged(newer) if known else newer
        known.save(file)
    shutil.rmtree(work)
    assert known is not None
    return known


def known_table(
    file: Path, runtime: str, precision: str, threads: int
) -> RuntimeTable | None:
    """Return the table that a file holds; None if there is none yet.

    Raises
    ------
    ValueError
        If it is not for this runtime, precision, number of threads and machine.
    """
    timing_of(runtime, precision)
    if not file.exists():
        return None
    table = LatencyTable.load(file)
    target = {"runtime": runtime, "precision": precision, "threads": threads}
    try:
        check_target(table, **target, cpu=cpu_name())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    assert isinstance(table, RuntimeTable)
    return table


def deployed_ms(
    nets: Sequence[Any],
    folder: Path,
    runtime: str,
    precision: str,
    threads: int,
    *,
    spread: float = 0.1,
) -> list[tuple[float, float]]:
    """Return the smallest and the median milliseconds of nets, as they are deployed.

    Parameters
    ----------
    nets : sequence
        Of a family, with values.
    folder : Path
        Made for their files, and removed.
    runtime, precision, threads, spread
        As for ``measure_table``.

    Raises
    ------
    ValueError
        If a net cannot be written, or the machine is too busy.
    """
    timing = timing_of(runtime, precision)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "nets").mkdir(parents=True)
    entries = []
    for i, net in enumerate(nets):
        deployable = Deployable.of(net)
        graph = (*deployable.graph, deployable.preprocess.shape)
        entry = written(graph, timing.deployed, folder, f"net_{i}")
        entries.append({**entry, "name": f"net_{i}", "blocks": []})
    content = {
        "runtime": runtime,
        "precision": precision,
        "options": dict(timing.options),
        "units": {},
        "pairs": [],
        "steps": [],
        "nets": entries,
    }
    write_json(folder / runner.BUNDLE, content)
    time_bundle(folder, folder / "table.json", runtime, threads, spread)
    times = read_json(folder / runner.TIMES)["ms"]
    shutil.rmtree(folder)
    return [tuple(times[entry["name"]]) for entry in entries]


def time_bundle(
    folder: Path, table: Path, runtime: str, threads: int, spread: float
) -> None:
    """Run the runner in a process that has these threads and nothing else.

    Raises
    ------
    ValueError
        With the line that it ends with.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MXNET_SUBGRAPH_VERBOSE": "0",
    }
    if runtime == "mxnet":  # docs/deploy.md recommends it
        environment["OMP_WAIT_POLICY"] = "active"
    command = [sys.executable, "-W", "ignore", "-m", runner.__name__]
    options = [f"--bundle={folder}", f"--table={table}", f"--spread={spread}"]
    done = subprocess.run(
        [*command, *options, f"--threads={threads}"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(lines[-1].partition("error: ")[2] or lines[-1])
