"""What tracing and pruning one model gives, measured in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import resource
import time
import zlib
from typing import Any, Callable

BUDGET = 0.5  # share of the MACs


def alone(measure: Callable[[str], dict], name: str) -> dict:
    """Return what a function finds in a forked process, or why it finds nothing.

    Memory is then the model's own, and all of it is given back.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_sent, args=(measure, name, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return {"failed": "the process ended without a word, memory may be short"}
    finally:
        process.join()


def _sent(measure: Callable[[str], dict], name: str, pipe: Any) -> None:
    try:
        found = measure(name)
    except Exception as error:  # whatever a model's own code raises
        found = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    pipe.send(found)


def filled(net: Any, graph: Any, seed: int) -> None:
    """Give every parameter random values, as training would leave none at 0 or 1."""
    import mxnet as mx
    import numpy as np

    random = np.random.RandomState(seed)
    # As many numbers as a prime, again and again: no two filters are the same.
    pool = random.standard_normal(65521).astype("float32")
    shapes = {
        node["name"]: tensors[0].shape
        for node, tensors in zip(graph.nodes, graph.tensors)
        if node["op"] == "null"
    }
    for parameter in net.collect_params().values():
        if isinstance(parameter, mx.gluon.Constant):
            parameter.initialize()
        if parameter.name not in shapes or isinstance(parameter, mx.gluon.Constant):
            continue
        shape = parameter.shape = shapes[parameter.name]
        parameter.initialize(mx.init.Zero(), force_reinit=True)
        if parameter.name.endswith(("gamma", "running_var", "alpha")):
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = random.normal(0, 0.2, shape)
        else:
            value = (
                np.resize(pool, shape) * np.float32(np.prod(shape[1:]) / 1.5) ** -0.5
            )
        parameter.set_data(mx.nd.array(value))


def measured(name: str) -> dict:
    """Trace a model, halve its MACs, and compare masks with the slim net."""
    import mxnet as mx
    import numpy as np
    from zoo_models import DETECTORS, build, kind_of, shape_of

    from gluon_compress import Budget, count, delete, mask, select, slim, trace
    from gluon_compress.graph import pair_of

    shape, times = shape_of(name), [0.0]
    source = whole = net = build(name)
    filled(net, trace(net, shape), zlib.crc32(name.encode()))
    if kind_of(name) in DETECTORS:  # called, they would decode and suppress
        source = pair_of(net)
        whole = slim(source, None, shape=shape)
    mx.nd.waitall()
    times[0] = time.process_time()
    graph = trace(net, shape)
    times.append(time.process_time())
    before, failed = count(graph), ""
    try:
        plan = select(graph, Budget.share(before, macs=BUDGET))
    except ValueError as error:
        plan, failed = delete(graph, {"*": BUDGET}, multiple=1), str(error)
    times.append(time.process_time())
    small = slim(source, plan, shape=shape)
    mx.nd.waitall()
    times.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = mx.nd.array(np.random.RandomState(0).uniform(-1, 1, shape))
    nets = (whole, mask(source, plan, shape=shape), small)
    outputs = [flat(each(images)) for each in nets]
    return {
        "shape": list(shape),
        "nodes": len(graph.nodes),
        "operators": dict(sorted(graph.ops.items())),
        **groups(graph),
        "macs": before.macs,
        "macs_left": count(graph, plan).macs,
        "not_halved": failed,
        "error": difference(outputs[1], outputs[2]),
        "change": difference(outputs[0], outputs[2]),
        "cpu_seconds": [round(b - a, 2) for a, b in zip(times, times[1:])],
        "peak_mb": round(peak * 1024 / 1e6),
    }


def groups(graph: Any) -> dict:
    """Return how many groups there are, which are frozen, and whose parameters."""
    from gluon_compress.graph.nodes import states

    why: dict[str, int] = {}
    for group in graph.groups:
        if group.frozen:
            why[group.frozen] = why.get(group.frozen, 0) + group.width * group.size
    running, sizes = states(graph.nodes), {}
    for node, tensors in zip(graph.nodes, graph.tensors):
        setting = graph.settings.get(node["name"])
        if node["name"] in graph.params and not (setting and setting.constant):
            sizes[node["name"]] = math.prod(tensors[0].shape)
    trained = {n: size for n, size in sizes.items() if n not in running}
    return {
        "groups": len(graph.groups),
        "frozen": why,
        "params": sum(trained.values()),
        "prunable_params": sum(n for name, n in trained.items() if name in graph.axes),
    }


def flat(outputs: Any) -> list:
    """Return all outputs, however nested, as arrays."""
    if isinstance(outputs, (list, tuple)):
        return [array for part in outputs for array in flat(part)]
    return [outputs.asnumpy()]


def difference(left: list, right: list) -> float:
    """Return the largest difference of outputs, in units of each one's scale."""
    import numpy as np

    if not all(np.isfinite(array).all() for array in (*left, *right)):
        raise ValueError("the outputs are not finite")
    # An output may be a constant that is 0 everywhere.
    pairs = zip(left, right)
    return float(max(np.abs(a - b).max() / (np.abs(a).max() or 1) for a, b in pairs))
