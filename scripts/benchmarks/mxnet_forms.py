"""Times and profiles forms of heads in MXNet, in a process of its own: JSON in and out.

``forms``: forms of nets take turns, each with one change more than the one before.

``operators``: MXNet's profiler says what each kind of operator takes in one form.

``budgets``: a plan under a budget in milliseconds beside one in MACs, both of the same
recipe. The budget is what the table predicts for the plan in MACs, so that both nets
should take as long, and what differs is how much they may keep.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.nets import build, noise
from experiments.sets import PLAN, ZOO

SHAPE = (1, 3, 300, 300)
FORMS = {
    "raw": "two predictors per map, separate BatchNorm",
    "folded": "BatchNorm folded into convolutions",
    "joined": "one predictor per map, one output",
    "fused": "MXNet's fused backend",
    "wide": "predictors padded to whole blocks of channels, as a `Predictor` runs them",
}
# Operators as MXNet names them, fused ones too, by what they are for.
KINDS = {
    "convolution": ("Convolution", "_sg_mkldnn_conv"),
    "BatchNorm": ("BatchNorm",),
    "activation, sum": ("Activation", "relu", "clip", "elemwise_add", "_plus"),
    "pooling": ("Pooling",),
    "transpose, reshape": ("transpose", "Flatten", "Reshape", "Reorder"),
    "concat, slice": ("Concat", "slice"),
}
OTHER = "other"
WAITING = ("WaitForVar", "DeleteVariable")  # of the engine, for operators
WARM_UP = 2  # runs of each turn that are not counted
PROFILED, PROFILE_WARM_UP = 20, 5  # runs


def form_of(net: Any, form: str) -> Any:
    """Return the head of a detector in one of ``FORMS``."""
    from gluon_compress.deployment.folding import fold
    from gluon_compress.deployment.fusing import fuse
    from gluon_compress.deployment.pad_channels import pad_channels
    from gluon_compress.graph import block_of, pair_of
    from gluon_compress.models.family import family_of

    steps = list(FORMS)[: list(FORMS).index(form) + 1]
    joined = "joined" in steps
    symbol, params = family_of(net).inference_graph(net) if joined else pair_of(net)
    if "folded" in steps:
        symbol, params = fold(symbol, params)
    if "wide" in steps:
        symbol, params = pad_channels(symbol, params)
    if "fused" in steps:
        symbol = fuse(symbol)
    block = block_of(symbol, params)
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def wait_for(outputs: Any) -> None:
    """Wait for the outputs of a block."""
    for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        output.wait_to_read()


def time_forms(task: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds of each counted run, by net and form."""
    import mxnet as mx

    image = mx.nd.array(noise(SHAPE))
    runs = {}
    for name in task["nets"]:
        net = build(name)
        runs.update({(name, form): form_of(net, form) for form in FORMS})
    times: dict = {name: {form: [] for form in FORMS} for name in task["nets"]}
    end, is_last = time.monotonic() + task["seconds"], False
    while not is_last:
        is_last = time.monotonic() > end
        for (name, form), run in runs.items():
            for i in range(2 * WARM_UP):
                start = time.perf_counter()
                wait_for(run(image))
                if i >= WARM_UP:
                    seconds = time.perf_counter() - start
                    times[name][form].append(1e3 * seconds)
    return times


# ---------------------------------------------------------------- operators


def kind_of(operator: str) -> str:
    """Return which of ``KINDS`` an operator belongs to, or ``other``."""
    for kind, starts in KINDS.items():
        if operator.startswith(starts):
            return kind
    return OTHER


def profile(task: dict[str, Any]) -> dict[str, float]:
    """Return milliseconds an image by kind of operator, in a form of a net."""
    os.environ["MXNET_EXEC_BULK_EXEC_INFERENCE"] = "0"  # operators one by one
    import mxnet as mx

    run, image = form_of(build(task["net"]), task["form"]), mx.nd.array(noise(SHAPE))
    for _ in range(PROFILE_WARM_UP):
        wait_for(run(image))
    # MXNet deletes the file that it was told before: never name one that exists.
    with TemporaryDirectory() as place:
        mx.profiler.set_config(
            profile_symbolic=True,
            profile_imperative=True,
            aggregate_stats=True,
            filename=str(Path(place, "profile.json")),
        )
        mx.profiler.set_state("run")
        for _ in range(PROFILED):
            wait_for(run(image))
        mx.nd.waitall()
        mx.profiler.set_state("stop")
        profiled = json.loads(mx.profiler.dumps(reset=True, format="json"))
        mx.profiler.dump()  # or it would be written when the process ends
    spent = dict.fromkeys([*KINDS, OTHER], 0.0)
    for name, figures in profiled["Time"]["operator"].items():
        if name not in WAITING:
            spent[kind_of(name)] += figures["Total"] / PROFILED
    return spent


# ---------------------------------------------------------------- budgets


def plans_of(name: str, table_file: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return graph, latency table, and the plans in MACs and in milliseconds."""
    import gluon_compress as gc
    from gluon_compress import pipeline
    from gluon_compress.recipe import parse_recipe
    from gluon_compress.storage.atomic import read_json

    recipe = read_json(ZOO / name / "recipe.json")
    full = gc.build(recipe["model"]["name"])
    graph = gc.trace(full, SHAPE)
    file = Path(table_file)
    table = gc.LatencyTable.load(file) if file.exists() else None
    table = gc.measure_blocks(graph, table)
    table.save(file)
    in_macs = gc.Plan.load(ZOO / name / PLAN)
    *others, row = recipe["compression"]
    budget = {key: limit for key, limit in row["budget"].items() if key != "macs"}
    budget["latency_ms"] = gc.predict_latency(graph, table, in_macs)
    row = {**row, "budget": budget, "latency_table": str(file)}
    in_ms, _ = pipeline.decide(
        parse_recipe({**recipe, "compression": [*others, row]}),
        recipe["data"]["classes"],
    )
    return full, graph, table, {"MACs": in_macs, "milliseconds": in_ms}


def compare_budgets(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what both plans keep, predicted and measured."""
    import gluon_compress as gc
    from gluon_compress.latency import nets_ms

    full, graph, table, plans = plans_of(task["recipe"], task["table"])
    nets = {name: gc.slim(full, plan) for name, plan in plans.items()}
    forms = ("raw", "wide")
    heads = {(n, form): form_of(net, form) for n, net in nets.items() for form in forms}
    milliseconds = dict(zip(heads, nets_ms(list(heads.values()), SHAPE)))
    return [
        {
            "budget": name,
            **gc.count(gc.trace(net, SHAPE)).figures(),
            "predicted_ms": gc.predict_latency(graph, table, plans[name]),
            **{f"{form}_ms": milliseconds[name, form] for form in forms},
        }
        for name, net in nets.items()
    ]


TIMERS = {"forms": time_forms, "operators": profile, "budgets": compare_budgets}

if __name__ == "__main__":
    TASK = json.loads(sys.argv[1])
    print(json.dumps(TIMERS[TASK["time"]](TASK)), flush=True)
