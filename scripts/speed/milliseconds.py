"""A plan under a budget in milliseconds beside one in MACs: JSON in, JSON out.

Both are of the same recipe. The budget is what the table predicts for the plan in MACs,
so that both nets should take as long, and what differs is how much they may keep.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gluon_compress.provenance import ROOT

SHAPE = (1, 3, 300, 300)


def plans_of(name: str, table_file: str) -> tuple:
    """Return graph, latency table, and the plans in MACs and in milliseconds."""
    import gluon_compress as gc
    from gluon_compress import pipeline
    from gluon_compress.recipe import load_recipe

    folder = ROOT / "model_zoo" / name
    stated = load_recipe(folder / "recipe.json")
    full = gc.build(stated.model.name)
    graph = gc.trace(full, SHAPE)
    known = Path(table_file)
    table = gc.LatencyTable.load(known) if known.exists() else None
    table = gc.measure_units(graph, table)
    table.save(known)
    in_macs = gc.Plan.load(folder / "plan.json")
    *others, row = stated.compression
    limits = {key: limit for key, limit in row.budget.items() if key != "macs"}
    limits["latency_ms"] = gc.predict_latency(graph, table, in_macs)
    row = row.replace(budget=limits, latency_table=str(known))
    changed = stated.replace(compression=(*others, row))
    in_ms, _ = pipeline.decide(changed, changed.data.classes)
    return full, graph, table, {"MACs": in_macs, "milliseconds": in_ms}


def compared(task: dict) -> list[dict]:
    """Return what both plans keep, predicted and measured."""
    import gluon_compress as gc
    from gluon_compress.latency import nets_ms
    from speed.forms import form_of

    full, graph, table, plans = plans_of(task["recipe"], task["table"])
    nets = {name: gc.slim(full, plan) for name, plan in plans.items()}
    forms = ("raw", "wide")
    heads = {(n, form): form_of(net, form) for n, net in nets.items() for form in forms}
    took = dict(zip(heads, nets_ms(list(heads.values()), SHAPE)))
    return [
        {
            "budget": name,
            **gc.count(gc.trace(net, SHAPE)).figures(),
            "predicted_ms": gc.predict_latency(graph, table, plans[name]),
            **{f"{form}_ms": took[name, form] for form in forms},
        }
        for name, net in nets.items()
    ]


if __name__ == "__main__":
    print(json.dumps(compared(json.loads(sys.argv[1]))), flush=True)
