"""Traces and prunes GluonCV's classifiers and detectors, and records how it went."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import resource
import time
import zlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Callable, Sequence

from benchmarks.model_coverage_page import page
from gluon_compress.cli.app import Command
from gluon_compress.provenance import ROOT, environment

TEXT = """Trace and prune GluonCV's classifiers and detectors, and record the results.

  %(prog)s
  %(prog)s --models 'resnet*' --again
  %(prog)s --check

Writes docs/supported_models.json and, from it, docs/supported_models.md. Models already
in the JSON are skipped. Two processes with different --models may share a folder.
"""
# Kind to the names that belong to it; the first that fits counts. Of what exists for
# several data sets, the heads differ, not the net: COCO stands for all of them.
KINDS = {
    "": r".*(_int8|_voc|_custom|_hmdb51|_ucf101|_sthsthv2|_citys|_mhpv1)$",
    "SSD": r"ssd_.*",
    "YOLOv3": r"yolo3_.*",
    "CenterNet": r"center_net_.*",
    "other": r".*(rcnn|pose|kinetics|deeplab|fcn|psp|icnet|fastscnn|danet|smot|siam|"
    r"monodepth|_ade|_coco|_otb).*",
    "classifier": r".*",
}
# Detectors that exist for VOC only.
VOC_ONLY = ("ssd_512_resnet101_v2_voc", "ssd_512_resnet152_v2_voc")
SIZES = {
    r"cifar_.*": 32,
    r"inceptionv3|xception.*": 299,
    r"nasnet.*": 331,
    r"ssd_300.*": 300,
    r"yolo3.*": 416,
    r"(ssd|center_net)_.*": 512,
    r".*": 224,
}
DETECTORS = ("SSD", "YOLOv3", "CenterNet", "own")
OWN = "ssd_300_resnet50_v1d"  # of this package
BUDGET = 0.5  # share of the MACs
# What layers multiply the variance by. With more than 1, the branches of residual nets
# double it block by block, gates saturate and hide or blow up differences; with the
# first, hundreds of blocks still overflow.
GAINS = (0.5, 0.2, 0.05)
# A change of the image as small as rounding, and by how much it may move the outputs.
# Nets that it moves more show how float32 rounds, not what masks and slimming do.
NUDGE, STEADY = 2.0**-22, 1e-5


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default="*", help="pattern of names; default: all")
    parser.add_argument(
        "--again", action="store_true", help="also what is recorded already"
    )
    parser.add_argument("--check", action="store_true", help="only compare the page")
    parser.add_argument("--out", default=ROOT / "docs", help="default: docs")


def _measure(args: argparse.Namespace) -> None:
    """Measure what is missing, one model after the other, and write the page."""
    from gluon_compress.storage.atomic import read_json, write_atomically, write_json
    from gluon_compress.storage.locks import taking_turns

    stored = Path(args.out, "supported_models.json")
    written = stored.with_suffix(".md")

    def recorded() -> dict[str, Any]:
        return read_json(stored) if stored.exists() else {}

    if args.check:
        if not written.exists() or written.read_text("utf-8") != page(recorded()):
            raise ValueError(f"{written}: is not what {stored.name} gives")
        return
    facts = environment()  # before the first row changes a file of the checkout
    for name, kind in chosen(args.models).items():
        if name in recorded().get("models", {}) and not args.again:
            continue
        row = {"kind": kind, "commit": facts["commit"], **in_fork(measure, name)}
        with taking_turns(stored):  # another process may measure other models
            before = recorded()
            models = dict(sorted({**before.get("models", {}), name: row}.items()))
            write_json(stored, {**before, **facts, "models": models})
        print(name, row.get("failed") or f"{row['error']:.1e}", flush=True)
    write_atomically(written, page(recorded()))
    print(written)


# ---------------------------------------------------------------- which models


def chosen(pattern: str) -> dict[str, str]:
    """Return the models that a pattern names, and the kind of each.

    Raises
    ------
    ValueError
        If there are none.
    """
    import gluon_compress.prune  # noqa: F401  before any fork, for it takes seconds

    every = names()
    fitting = {name: kind for name, kind in every.items() if fnmatchcase(name, pattern)}
    if not fitting:
        raise ValueError(f"no model is named {pattern!r}; allowed: {', '.join(every)}")
    return fitting


def names() -> dict[str, str]:
    """Return all classifiers and detectors, and the kind of each."""
    from gluoncv.model_zoo.model_zoo import get_model_list

    kinds = {name: kind_of(name) for name in (*sorted(get_model_list()), OWN)}
    return {n: k for n, k in kinds.items() if k in ("classifier", *DETECTORS)}


def kind_of(name: str) -> str:
    """Return the kind of a model, "" if it is left out."""
    if name == OWN:
        return "own"
    if name in VOC_ONLY:
        return "SSD"
    return next(kind for kind, form in KINDS.items() if re.fullmatch(form, name))


def shape_of(name: str) -> tuple[int, int, int, int]:
    """Return the usual input shape of a model, one image."""
    size = next(size for form, size in SIZES.items() if re.fullmatch(form, name))
    return (1, 3, size, size)


def build(name: str) -> Any:
    """Return a new model; nothing is downloaded."""
    from gluoncv.model_zoo import get_model

    import gluon_compress as gc

    if name == OWN:
        return gc.build(name, classes=["a", "b", "c"])
    if kind_of(name) in DETECTORS:
        return get_model(name, pretrained=False, pretrained_base=False)
    try:
        return get_model(name, pretrained=False, pretrained_base=False)
    except (TypeError, Warning):  # most classifiers have no base, and refuse it
        return get_model(name, pretrained=False)


# ---------------------------------------------------------------- one model


def in_fork(run: Callable[[str], dict], name: str) -> dict[str, Any]:
    """Return what a function finds in a forked process, or why it finds nothing.

    Memory is then the model's own, and all of it is given back.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(run, name, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return {"failed": "the process ended without a word, memory may be short"}
    finally:
        process.join()


def _send(run: Callable[[str], dict], name: str, pipe: Any) -> None:
    try:
        row = run(name)
    except Exception as error:  # whatever a model's own code raises
        row = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    pipe.send(row)


def measure(name: str) -> dict[str, Any]:
    """Trace a model, halve its MACs, and compare masks with the slim net."""
    from gluon_compress import Budget, count, delete, mask, select, slim, trace

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


def flat(outputs: Any) -> list[Any]:
    """Return all outputs, however nested, as arrays."""
    if isinstance(outputs, (list, tuple)):
        return [array for part in outputs for array in flat(part)]
    return [outputs.asnumpy()]


def difference(left: Sequence[Any], right: Sequence[Any]) -> float:
    """Return the largest difference of outputs, in units of each one's scale."""
    import numpy as np

    if not all(np.isfinite(array).all() for array in (*left, *right)):
        raise ValueError("the outputs are not finite")
    # An output may be a constant that is 0 everywhere.
    pairs = zip(left, right)
    return float(max(np.abs(a - b).max() / (np.abs(a).max() or 1) for a, b in pairs))


def prepared(name: str, shape: Sequence[int]) -> tuple[Any, Any, Any, list[Any]]:
    """Return a model with values, what is pruned of it, an image, and its outputs."""
    import mxnet as mx
    import numpy as np

    from gluon_compress import slim, trace
    from gluon_compress.graph import pair_of

    net, images = build(name), np.random.RandomState(0).uniform(-1, 1, shape)
    graph, images = trace(net, shape), mx.nd.array(images)
    for gain in GAINS:
        fill(net, graph, gain, zlib.crc32(name.encode()))
        # Called, a detector would decode and suppress.
        source = pair_of(net) if kind_of(name) in DETECTORS else net
        whole = net if source is net else slim(source, None, shape=shape)
        outputs, nudged = flat(whole(images)), flat(whole(images * (1 + NUDGE)))
        finite = all(np.isfinite(array).all() for array in (*outputs, *nudged))
        if finite and difference(outputs, nudged) <= STEADY:
            return net, source, images, outputs
    raise ValueError("no random values give it steady outputs")


def fill(net: Any, graph: Any, gain: float, seed: int) -> None:
    """Give every parameter random values, as training would leave none at 0 or 1."""
    import mxnet as mx
    import numpy as np

    random, shapes = np.random.RandomState(seed), {}
    # As many numbers as a prime, again and again: no two filters are the same.
    pool = random.standard_normal(65521).astype("float32")
    for node, tensors in zip(graph.nodes, graph.tensors):
        shapes[node["name"]] = tensors[0].shape
    for parameter in net.collect_params().values():
        if isinstance(parameter, mx.gluon.Constant):
            parameter.initialize()
        elif parameter.name in shapes:
            shape = parameter.shape = shapes[parameter.name]
            parameter.initialize(mx.init.Zero(), force_reinit=True)
            value = np.resize(pool, shape) * np.sqrt(gain / math.prod(shape[1:]))
            if parameter.name.endswith(("gamma", "running_var", "alpha")):
                value = random.uniform(0.5, 1.5, shape)
            elif len(shape) < 2:
                value = random.normal(0, 0.2, shape)
            parameter.set_data(mx.nd.array(value))


def groups(graph: Any) -> dict[str, Any]:
    """Return how many groups there are, which are frozen, and whose parameters."""
    from gluon_compress.graph.symbols import states

    frozen: dict[str, int] = {}
    for group in graph.groups:
        if group.frozen:
            channels = group.width * group.size
            frozen[group.frozen] = frozen.get(group.frozen, 0) + channels
    running, sizes = states(graph.nodes), {}
    for node, tensors in zip(graph.nodes, graph.tensors):
        setting, name = graph.settings.get(node["name"]), node["name"]
        if name in graph.params and not setting.constant and name not in running:
            sizes[name] = math.prod(tensors[0].shape)
    prunable = sum(size for name, size in sizes.items() if name in graph.axes)
    counts = {"params": sum(sizes.values()), "prunable_params": prunable}
    return {"groups": len(graph.groups), "frozen": frozen, **counts}


# Several processes may share the models.
COMMAND = Command(TEXT, _add_options, _measure, writes=())
