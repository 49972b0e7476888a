"""Trains a bottleneck on feature maps alone: HND and GHND.

The student is the teacher with a bottleneck in place of a part. **HND**, head network
distillation, compares the map that was replaced; **GHND** the later stages of the trunk
too (Matsubara and Levorato 2020, equations 2 and 3): the sum of squared errors over all
values, every stage with the factor 1. Labels are not used, and nothing behind the trunk
is run: neither the necks nor the heads of a detector.

Only the bottleneck learns. What lies before it is the teacher's own, so the teacher
computes it for both. What lies behind it is frozen, with its running statistics; its
BatchNorms are folded, since they are constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import HybridBlock, SymbolBlock
from typing_extensions import Literal

from gluon_compress.deployment.folding import fold, fused
from gluon_compress.distill.reductions import sum_of_squares
from gluon_compress.graph import give_value, pair_of, trace
from gluon_compress.graph.operators import operator_of
from gluon_compress.graph.symbols import put_together, take_apart
from gluon_compress.models.family import family_of
from gluon_compress.splitting.bottleneck import (
    Bottleneck,
    Places,
    bottleneck_symbol,
    is_bottleneck_parameter,
)
from gluon_compress.splitting.cuts import (
    INPUT,
    cut,
    dominators,
    needed_values,
    number_of,
    one_variable_each,
    outputs_at,
)
from gluon_compress.validation import few, wrong

Method = Literal["hnd", "ghnd"]
FROZEN = "frozen_"  # prefix of copies of the teacher's values


@dataclass(frozen=True)
class TrunkLesson:
    """What is trained, and its loss.

    Parameters
    ----------
    block : HybridBlock
        From the map before the bottleneck to the stages; the bottleneck's parameters
        are the student's own.
    step_loss : callable
        ``step_loss(block, batch) -> (loss, {stage: value})``; of a batch only the
        images are used.
    stages : tuple of str
        Names of the maps that are compared.
    """

    block: HybridBlock
    step_loss: Callable
    stages: Tuple[str, ...]


def stage_names(
    net: Any, where: Places, method: Method, stages: Sequence[str] | None = None
) -> Dict[str, str]:
    """Return the maps that student and teacher are compared at.

    Parameters
    ----------
    net : HybridBlock
        The teacher, without a bottleneck.
    where : Places
    method : str
        ``hnd``: the map that is replaced. ``ghnd``: also the last one at each later
        size of the trunk.
    stages : sequence of str, optional
        Names of the later maps, in place of those.

    Returns
    -------
    dict
        Names, the same in every process, to names of nodes in this one. The first is
        the map that is replaced.

    Raises
    ------
    ValueError
        For a name that is no map behind the bottleneck.
    """
    first = {where.at.name: where.at.node}
    if method == "hnd":
        if stages is not None:
            raise wrong("stages", list(stages), "null with the method hnd")
        return first
    graph = trace(net)
    names = dict(zip(graph.grouping.names, (n["name"] for n in graph.nodes)))
    start = number_of(graph.nodes, where.at.node)
    later = _maps_behind(graph, start)
    if stages is None:
        return {**first, **_last_of_each_size(net, graph, start)}
    for name in stages:
        if name not in later:
            allowed = few(list(later), 4) or "none"
            raise wrong("stages", name, f"a map behind {where.at.name}: {allowed}")
    return {**first, **{name: names[name] for name in stages}}


def _maps_behind(graph: Any, start: int) -> Dict[str, int]:
    """Return the maps of four axes that are computed of a node, by name."""
    behind, result = {start}, {}
    for i, node in enumerate(graph.nodes):
        if any(e[0] in behind for e in needed_values(node)):
            behind.add(i)
            if len(graph.tensors[i][0].shape) == 4:
                result[graph.grouping.names[i]] = i
    return result


def _last_of_each_size(net: Any, graph: Any, start: int) -> Dict[str, str]:
    """Return the last map of the trunk at each size behind a node, but one cell."""
    end = _trunk_end(net, graph, start)
    inner = [[end, 0, 0]]
    points = dominators(graph.nodes, inner, start)
    size = tuple(graph.tensors[start][0].shape[2:])
    last: Dict[tuple, int] = {}
    for number in [*(i for i, _ in points if i > start), end]:
        shape = graph.tensors[number][0].shape
        if len(shape) == 4 and shape[2:] != size and max(shape[2:]) > 1:
            last[tuple(shape[2:])] = number
    return {graph.grouping.names[i]: graph.nodes[i]["name"] for i in last.values()}


def _trunk_end(net: Any, graph: Any, start: int) -> int:
    """Return the last map that is computed with parameters of the trunk alone."""
    try:
        trunk = family_of(net).trunk_parameters(graph.symbol)
    except ValueError:  # of no family, or one without a trunk
        trunk = set(graph.params)
    shared: Dict[int, bool] = {}
    for i, node in enumerate(graph.nodes):
        own = node["op"] != "null" or node["name"] in {*trunk, *graph.inputs}
        shared[i] = own and all(shared[e[0]] for e in node["inputs"])
    cells = {start: _cells(graph, start)}
    for i in _maps_behind(graph, start).values():
        is_layer = operator_of(graph.nodes[i]["op"]).weight_input is not None
        if shared[i] and not is_layer and max(graph.tensors[i][0].shape[2:]) > 1:
            cells[i] = _cells(graph, i)
    least = min(cells.values())
    return max(i for i, count in cells.items() if count == least)


def _cells(graph: Any, number: int) -> int:
    return int(np.prod(graph.tensors[number][0].shape[2:]))


def trunk_lesson(
    student: HybridBlock,
    teacher: HybridBlock,
    settings: Bottleneck,
    where: Places,
    stages: Mapping[str, str],
    *,
    ctx: Sequence[mx.Context] = (),
) -> TrunkLesson:
    """Return what to train of a net with a bottleneck, and the loss.

    Parameters
    ----------
    student : HybridBlock
        What ``with_bottleneck`` made of the teacher.
    teacher : HybridBlock
    settings : Bottleneck
    where : Places
        As ``places`` gave them for the teacher.
    stages : mapping
        As ``stage_names`` returns them.
    ctx : sequence of Context
        Devices of the teacher; default: the CPU.
    """
    devices = list(ctx) or [mx.cpu()]
    shape = next(iter(trace(teacher).inputs.values()))
    symbol, params = pair_of(teacher)
    fixed = outputs_at(symbol, [where.after.node, *stages.values()])
    runs = fused((fixed, _used(fixed, params)), devices, shape=shape)
    block = _student_block(student, symbol, params, settings, where, stages, shape)
    block.collect_params().reset_ctx(devices)

    def step_loss(net: Callable, batch: Sequence) -> tuple[Any, Dict[str, Any]]:
        with autograd.pause():
            before, *wanted = runs(batch[0])
        outputs = net(before)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        parts = {
            name: sum_of_squares(ours - theirs.detach())
            for name, ours, theirs in zip(stages, outputs, wanted)
        }
        return mx.nd.add_n(*parts.values()), parts

    return TrunkLesson(block, step_loss, tuple(stages))


def _used(symbol: mx.sym.Symbol, params: Mapping) -> Dict[str, mx.nd.NDArray]:
    names = set(symbol.list_inputs())
    return {name: value for name, value in params.items() if name in names}


def _student_block(
    student: HybridBlock,
    symbol: mx.sym.Symbol,
    params: Mapping,
    settings: Bottleneck,
    where: Places,
    stages: Mapping[str, str],
    shape: Sequence[int],
) -> SymbolBlock:
    """Return the block from the map before the bottleneck to the stages."""
    between = bottleneck_symbol(mx.sym.var(INPUT), where, settings)
    later = [node for node in stages.values() if node != where.at.node]
    values: Dict[str, mx.nd.NDArray] = {}
    outputs = between
    if later:
        _, (tail, kept) = cut(symbol, params, where.at.node, shape)
        part = outputs_at(tail, later)
        folded, values = fold(part, _used(part, kept))
        folded, values = _frozen(folded, values)
        rest = folded(data=between)
        outputs = one_variable_each(mx.sym.Group([between, *rest]))
    inputs = mx.sym.var(INPUT, dtype="float32")
    own = student.collect_params()
    block = SymbolBlock(outputs, inputs, params=own)
    for name, parameter in block.collect_params().items():
        if name in values:
            parameter.grad_req = "null"
            give_value(parameter, values[name])
        else:
            assert is_bottleneck_parameter(name), name
    return block


def _frozen(
    symbol: mx.sym.Symbol, params: Mapping
) -> tuple[mx.sym.Symbol, Dict[str, mx.nd.NDArray]]:
    """Return a part of the teacher that training does not change.

    Its parameters have names of their own; BatchNorms that could not be folded use
    their running statistics, and nothing is dropped at random.
    """
    nodes, heads = take_apart(symbol)
    for node in nodes:
        attrs = dict(node["attrs"])
        if node["op"] == "null" and node["name"] in params:
            node["name"] = FROZEN + node["name"]
        elif operator_of(node["op"]).running_statistics:
            attrs["use_global_stats"] = "True"
        elif node["op"] == "Dropout":
            attrs["p"] = "0"
        node["attrs"] = attrs
    values = {FROZEN + name: value for name, value in params.items()}
    return put_together(nodes, heads), values
