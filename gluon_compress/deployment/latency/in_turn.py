"""Times nets as they are deployed, in turn, so that they can be compared."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Sequence

from gluon_compress.cost import Latency
from gluon_compress.deployment.deployable import Deployable
from gluon_compress.deployment.formats import FORMATS, InferenceGraph
from gluon_compress.deployment.latency.runner import in_turns, warmed_up
from gluon_compress.deployment.reference_outputs import noise
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.provenance import threads
from gluon_compress.storage.atomic import scratch_folder

SECONDS = 15.0  # of runs, unless the fewest take longer
NEEDS = ("onnx", "onnxruntime")  # the modules of ONNX Runtime's format
FORMATS_OF = {  # of nets without quantisers, and with them
    "onnxruntime": ("onnx", "onnx-int8"),
    "mxnet": ("mxnet", "int8"),
}
LOGGER = logging.getLogger(__name__)


def latencies_in_turn(
    nets: Sequence[Any], *, seconds: float = SECONDS
) -> list[Latency]:
    """Return the latency of nets in ONNX Runtime, or in MXNet if that is not there.

    Every net is written as ``deploy`` writes it, quantised nets in int8: decoding and
    NMS are not timed. The nets take turns, so that what slows the machine down slows
    all of them down. Each turn runs a net twice and times the second run; with one
    thread, it is CPU time.

    Parameters
    ----------
    nets : sequence of HybridBlock
        Of any family.
    seconds : float
        How long to go on; every net runs at least ``runner.LEAST_RUNS`` times.
    """
    if all(map(find_spec, NEEDS)):
        try:
            return _latencies(nets, "onnxruntime", seconds)
        except ValueError as error:
            LOGGER.warning("latency is MXNet's; not ONNX Runtime's: %s", error)
    return _latencies(nets, "mxnet", seconds)


def _latencies(nets: Sequence[Any], runtime: str, seconds: float) -> list[Latency]:
    with scratch_folder() as scratch:
        runs = []
        for number, net in enumerate(nets):
            (scratch / str(number)).mkdir()
            runs.append(_run(net, runtime, scratch / str(number)))
        times = in_turns(runs, seconds)
    return [Latency.of(row, str(threads()), runtime) for row in times]


def _run(net: Any, runtime: str, folder: Path) -> Callable[[], float]:
    """Return what runs a net in a runtime once and tells the milliseconds."""
    deployable = Deployable.of(net)
    shape = deployable.preprocess.shape
    batch = noise(shape)
    graph = InferenceGraph("net", *deployable.graph, shape, batch)
    row = FORMATS[FORMATS_OF[runtime][graph.quantised]]
    row.write(graph, folder)
    files = [folder / f"net{ending}" for ending in row.files]
    own = None if runtime == "mxnet" else threads()  # MXNet takes the process's
    run = RUNTIMES[runtime].open(files, own)
    later = []
    for name, stage in deployable.stages.items():
        part = replace(
            graph,
            name=name,
            symbol=stage.symbol,
            params=stage.params,
            inputs=stage.inputs,
        )
        row.write(part, folder)
        files = [folder / f"{name}{ending}" for ending in row.files]
        opened = RUNTIMES[runtime].open(files, own)
        values = {**{n: noise(s) for n, s in stage.inputs.items()}, **stage.examples}
        later.append(partial(opened, *(values[n] for n in opened.inputs)))

    def all_stages(images: Any) -> None:
        run(images)
        for each in later:
            each()

    return warmed_up(all_stages if later else run, batch, threads())
