"""Writes the blocks of a net as files of a runtime, for timing here or on a device."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from itertools import product
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np

from gluon_compress.deployment import runtimes
from gluon_compress.deployment.folding import fold
from gluon_compress.deployment.formats import FORMATS, InferenceGraph
from gluon_compress.deployment.latency import runner
from gluon_compress.deployment.latency.timings import Timing, timing_of
from gluon_compress.deployment.reference_outputs import noise
from gluon_compress.graph import Graph, pair_of
from gluon_compress.latency.block_nets import block_net, pattern
from gluon_compress.latency.blocks import FusedBlock
from gluon_compress.latency.runtime_blocks import (
    runtime_blocks,
    runtime_grid_points,
    weights_per_pair,
)
from gluon_compress.latency.runtime_table import RuntimeTable
from gluon_compress.plan import Plan
from gluon_compress.plan.constraints import DEFAULT, MULTIPLE, free_groups
from gluon_compress.prune import slim
from gluon_compress.storage.atomic import read_json, scratch_folder, write_json
from gluon_compress.storage.locks import LOCK
from gluon_compress.validation import shown

NET = "net"  # beginning of the file names
COUNTS = (1, 3)  # of equal blocks in the two nets of a pair
SHARES = (1.0, 0.5, 0.25)  # of every width, in the whole nets that are timed
RANDOM_NETS = 3
STEPS = (40, 48, 56, 64)  # widths that tell kernels of 8, 16 and 32 channels apart
PROGRAM = "measure.py"
STANDING_IN = """

def onnx_outputs(file):
    \"\"\"Return the names of the outputs of an ONNX file of a bundle.\"\"\"
    import cv2

    return cv2.dnn.readNetFromONNX(str(file)).getUnconnectedOutLayersNames()
"""
IMAGES = 2  # that int8 is calibrated on


def write_program(folder: Path) -> None:
    """Write what times a bundle on a device, which needs nothing of this package."""
    shutil.copyfile(str(runner.__file__), folder / PROGRAM)
    lines = Path(str(runtimes.__file__)).read_text(encoding="utf-8").splitlines()
    ours = ("from gluon_compress.",)  # a bundle's files need no checks
    kept = [line for line in lines if not line.startswith(ours)]
    text = "\n".join([*kept, STANDING_IN])
    (folder / "device_runtimes.py").write_text(text, encoding="utf-8")


def write_bundle(
    graph: Graph,
    folder: Path,
    runtime: str,
    precision: str,
    *,
    known: RuntimeTable | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write what a table of a net needs; return how many pairs and nets there are.

    Files that are there already stay, so that a stopped call can be repeated.

    Parameters
    ----------
    graph : Graph
        Traced for one image, with values.
    folder : Path
    runtime, precision : str
        A key of ``TIMINGS``.
    known : RuntimeTable, optional
        Blocks that it has are left out.
    progress : callable, optional
        ``progress(done, total)`` before each pair and net, and at the end.

    Raises
    ------
    ValueError
        If the runtime has no such precision, or its format cannot express a block.
    """
    timing = timing_of(runtime, precision)
    check_folder(folder, runtime, precision)
    inference = graph.inference()
    (folder / "nets").mkdir(parents=True, exist_ok=True)
    units = _units(inference, known)
    points = [
        (signature, block, widths)
        for signature, (block, unit) in units.items()
        for widths in product(unit["ins"], unit["outs"])
        if block.scaling != "whole" or widths[0]
    ]
    plans = _plans(inference) if points else {}
    total = len(points) + len(plans)
    tell = progress or (lambda done, total: None)
    pairs: list[dict] = []
    nets: list[dict] = []
    for signature, block, widths in points:
        tell(len(pairs), total)
        name = f"{_digest(signature)}_{widths[0]}_{widths[1]}"
        entries = _pair(inference, block, widths, timing, folder, name)
        pair = {"name": name, "signature": signature, "nets": entries}
        pairs.append({**pair, "ins": widths[0], "outs": widths[1]})
    steps = _steps(inference, timing, folder) if points else []
    for share, plan in plans.items():
        tell(len(pairs) + len(nets), total)
        blocks = widths_of_blocks(inference, plan)
        name = f"{share}_{_digest(blocks)}"
        entry = written(whole_net(inference, plan), timing.format, folder, name)
        nets.append({**entry, "name": name, "blocks": blocks})
    content = {
        "format": 1,
        "runtime": runtime,
        "precision": precision,
        "options": dict(timing.options),
        "units": {signature: unit for signature, (_, unit) in units.items()},
        "pairs": pairs,
        "steps": steps,
        "nets": nets,
    }
    write_json(folder / runner.BUNDLE, content)
    tell(total, total)
    return total


def check_folder(folder: Path, runtime: str, precision: str) -> None:
    """Refuse a folder that holds something else than such a bundle, or a part of it.

    Raises
    ------
    ValueError
        If it is a file, holds the bundle of another runtime, or other files.
    """
    timing_of(runtime, precision)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; a bundle needs a folder")
    stated = folder / runner.BUNDLE
    if stated.exists():
        earlier = read_json(stated)
        for name, wanted in (("runtime", runtime), ("precision", precision)):
            found = earlier.get(name) if isinstance(earlier, dict) else None
            if found != wanted:
                raise ValueError(
                    f"{stated}: {name} is {shown(found)}, wanted: {wanted!r}; choose "
                    "another folder"
                )
    elif any(path.name not in ("nets", LOCK) for path in folder.iterdir()):
        raise ValueError(f"{folder}: holds other files; a bundle needs a new folder")


def _digest(content: Any) -> str:
    """Return a short name for what a net is made of."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _pair(
    graph: Graph,
    block: FusedBlock,
    widths: Sequence[int],
    timing: Timing,
    folder: Path,
    name: str,
) -> list[dict[str, Any]]:
    """Write the two nets of a block at two widths; return their entries."""
    entries = []
    for count in COUNTS:
        net = block_net(graph, block, widths, count)
        entry = written(net, timing.format, folder, f"{name}_{count}")
        entries.append({**entry, "count": count})
    return entries


def _steps(graph: Graph, timing: Timing, folder: Path) -> list[dict[str, Any]]:
    """Write one block at near widths, which show what multiple of channels pays."""
    blocks = [
        block
        for block in runtime_blocks(graph)
        if block.scaling == "layer"
        and block.multiple == 1
        and min(block.inputs.full, block.outputs.full) >= STEPS[-1]
        and block.inputs.tensor is not None
        and block.outputs.tensor is not None
    ]
    if not blocks:
        return []

    def macs(block: FusedBlock) -> int:  # of one pair of channels
        cells = int(np.prod(graph.tensors[block.nodes[0]][0].shape[2:]))
        return weights_per_pair(graph, block) * cells

    chosen = max(blocks, key=macs)
    stem = f"step_{_digest(chosen.signature)}"
    return [
        {
            "name": f"{stem}_{width}",
            "width": width,
            "nets": _pair(
                graph, chosen, (width, width), timing, folder, f"{stem}_{width}"
            ),
        }
        for width in STEPS
    ]


def _units(
    graph: Graph, known: RuntimeTable | None
) -> dict[str, tuple[FusedBlock, dict[str, Any]]]:
    """Return by signature, if it is not known, a block and the widths to time."""
    by_signature: dict[str, list[FusedBlock]] = {}
    for block in runtime_blocks(graph):
        by_signature.setdefault(block.signature, []).append(block)
    units = {}
    for signature, blocks in by_signature.items():
        grid = known.grids.get(signature) if known else None
        if grid is not None and all(
            RuntimeTable.covers(grid, block) for block in blocks
        ):
            continue
        points = [runtime_grid_points(block) for block in blocks]
        unit = {
            "ins": sorted({width for ins, _ in points for width in ins}),
            "outs": sorted({width for _, outs in points for width in outs}),
            "weights": weights_per_pair(graph, blocks[0]),
        }
        units[signature] = blocks[0], unit
    return units


def _plans(graph: Graph) -> dict[str, Plan]:
    """Return the plans of the whole nets: shares of all widths, and random ones."""
    widths = DEFAULT.widths(graph, MULTIPLE)
    groups, rs = free_groups(graph), np.random.RandomState(0)

    def plan(choose: Callable[[list[int]], int]) -> Plan:
        return Plan({g.name: range(choose(row)) for g, row in zip(groups, widths)})

    def near(share: float) -> Callable[[list[int]], int]:
        return lambda row: min(row, key=lambda width: abs(width - share * row[-1]))

    plans = {f"share_{share:g}": plan(near(share)) for share in SHARES}
    for number in range(RANDOM_NETS):
        plans[f"random_{number}"] = plan(lambda row: int(rs.choice(row)))
    return plans


def widths_of_blocks(graph: Graph, plan: Plan) -> list[list]:
    """Return signature, input and output width of each block under a plan."""
    keep_mask = graph.keep_mask(plan.keep)
    return [
        [b.signature, b.inputs.width(keep_mask), b.outputs.width(keep_mask)]
        for b in runtime_blocks(graph)
    ]


def whole_net(graph: Graph, plan: Plan) -> tuple[mx.sym.Symbol, dict, tuple]:
    """Return an inference graph under a plan, with values of ``pattern``, and a shape.

    Parameters
    ----------
    graph : Graph
        The inference graph, with values.
    plan : Plan
    """
    net = graph.symbol, dict(graph.params)
    symbol, params = fold(*pair_of(slim(net, plan, graph=graph)))
    values = {
        name: mx.nd.array(pattern(value.shape, name)) for name, value in params.items()
    }
    (shape,) = graph.inputs.values()
    return symbol, values, shape


def written(
    net: tuple[mx.sym.Symbol, Mapping, tuple], file_format: str, folder: Path, name: str
) -> dict[str, Any]:
    """Write a net in the format of a runtime, packed; return what its entry states."""
    symbol, values, shape = net
    files = [f"{NET}{ending}" for ending in FORMATS[file_format].files]
    archive = folder / "nets" / f"{name}.zip"
    if not archive.exists():
        images = noise((IMAGES, *shape[1:]))
        graph = InferenceGraph(NET, symbol, values, shape, images)
        with scratch_folder() as scratch:
            FORMATS[file_format].write(graph, scratch)
            draft = scratch / archive.name
            with zipfile.ZipFile(
                draft, "w", zipfile.ZIP_DEFLATED, compresslevel=1
            ) as z:
                for file in files:
                    z.write(scratch / file, file)
            partial = archive.with_suffix(".part")
            shutil.copyfile(draft, partial)
        os.replace(partial, archive)
    return {
        "archive": f"nets/{archive.name}",
        "files": files,
        "shape": list(shape),
    }
