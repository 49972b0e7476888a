#!/usr/bin/env python
"""Find where MXNet's time goes in a head: form by form, operator by operator.

  scripts/benchmark_mxnet.py --out runs/mxnet --table runs/latency.json

Each form of a head has one change more than the one before, and all take turns. MXNet's
profiler says what each kind of operator takes in the first form and the last. With
--table, a plan under a budget in milliseconds is compared with one in MACs; what the
table lacks is measured first. Writes result.json and mxnet.md. Leave the machine alone.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from common import above_0, add_out, cores, main, parser, write_result
from speed.alone import alone
from speed.graphs import page_of
from speed.nets import NETS
from speed.settings import Setting

FIRST, LAST = "raw", "wide"


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument(
        "nets", nargs="*", metavar="NET", help="of benchmark.py, or a model"
    )
    add_out(made, "forms", "budgets")
    made.add_argument("--table", metavar="FILE", help="of latency, made or extended")
    made.add_argument("--recipe", default="ssd_300_resnet50_v1d_compact_s")
    made.add_argument("--threads", type=above_0, default=cores(), metavar="N")
    made.add_argument("--seconds", type=above_0, default=60, help="for all forms")
    return made


def run(args) -> None:
    """Time forms, profile operators, compare budgets, and write both files."""
    from gluon_compress.models import MODELS

    unknown = sorted(set(args.nets) - {*NETS, *MODELS})
    if unknown:
        raise ValueError(f"{unknown[0]}: none of {', '.join([*NETS, *MODELS])}")
    args.nets = args.nets or ["compact_s", "compact", "lite"]
    setting = Setting("mxnet", "float32", args.threads, 1)
    task = {"nets": args.nets, "seconds": args.seconds}
    times = alone("speed.forms", setting, task)
    forms = {
        net: {form: statistics.median(found) for form, found in of.items()}
        for net, of in times.items()
    }
    operators = {
        net: {
            form: alone("speed.operators", setting, {"net": net, "form": form})
            for form in (FIRST, LAST)
        }
        for net in args.nets
    }
    budgets = []
    if args.table:
        table = str(Path(args.table).resolve())
        task = {"recipe": args.recipe, "table": table}
        budgets = alone("speed.milliseconds", setting, task)
    measured = {"threads": args.threads, "forms": forms, "operators": operators}
    result = write_result(args.out, {**measured, "budgets": budgets})
    page = page_of(json.loads(result.read_text(encoding="utf-8")))
    (Path(args.out) / "mxnet.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main(run, arguments())
