"""What tracing and pruning one model gives, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import time
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


def measured(name: str) -> dict:
    """Trace a model, halve its MACs, and compare masks with the slim net."""
    from gluon_compress import Budget, count, delete, mask, select, slim, trace
    from supported.outputs import difference, flat
    from supported.values import groups, prepared
    from supported.zoo import shape_of

    shape = shape_of(name)
    net, source, images, outputs = prepared(name, shape)
    times = [time.process_time()]
    graph = trace(net, shape)
    times.append(time.process_time())
    before, failed = count(graph), ""
    try:
        plan = select(graph, Budget.share(before, macs=BUDGET))
    except ValueError as error:
        plan, failed = delete(graph, {"*": BUDGET}, multiple=1), str(error)
    times.append(time.process_time())
    small = slim(source, plan, shape=shape)
    times.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masked, slimmed = flat(mask(source, plan, shape=shape)(images)), flat(small(images))
    return {
        "shape": list(shape),
        "nodes": len(graph.nodes),
        "operators": dict(sorted(graph.ops.items())),
        **groups(graph),
        "macs": before.macs,
        "macs_left": count(graph, plan).macs,
        "not_halved": failed,
        "error": difference(masked, slimmed),
        "change": difference(outputs, slimmed),
        "cpu_seconds": [round(b - a, 2) for a, b in zip(times, times[1:])],
        "peak_mb": round(peak * 1024 / 1e6),
    }
