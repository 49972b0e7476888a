#!/usr/bin/env python
"""Time a step of training with and without a teacher, and the teacher alone, in turn.

  scripts/benchmark_distillation.py --out runs/distillation
  scripts/benchmark_distillation.py --student ssd_300_mobilenet1.0 --losses imitation

The student is the full detector cut by --plan, or another one; the teacher is the full
SSD-300 on ResNet50-v1d. What is told are medians: a step from labels, the teacher's
forward pass, a step with both, and what the losses and the adapters cost beyond the
teacher. With --out, it is also written to result.json and distillation.md.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from common import above_0, add_out, main, parser, write_result
from speed.teacher import page_of, told
from speed.teaching import FULL, PLAN, steps


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--student", default=FULL, metavar="MODEL")
    made.add_argument("--plan", default=PLAN, help="of the full one; default: compact")
    made.add_argument("--losses", nargs="+", default=["scores", "boxes", "features"])
    made.add_argument("--stride", type=above_0, default=2, help="as in recipes")
    made.add_argument("--batch", type=above_0, default=8)
    made.add_argument("--rounds", type=above_0, default=8)
    add_out(made, "student", "ms", required=False)
    return made


def run(args) -> None:
    """Build both nets, time the steps in turn, and print the medians."""
    timed: dict[str, list] = {name: [] for name in ("labels", "teacher", "both")}
    ways = steps(args)
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if number:  # the first round makes the graphs
                timed[name].append(time.perf_counter() - begun)
    # Within a round, for over minutes a machine's speed drifts.
    rounds = zip(*timed.values())
    timed["beyond"] = [both - labels - teacher for labels, teacher, both in rounds]
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in timed.items()}
    print(told(ms))
    if args.out:
        how = {key: getattr(args, key) for key in ("student", "losses", "stride")}
        result = write_result(args.out, {**how, "batch": args.batch, "ms": ms})
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        (Path(args.out) / "distillation.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(run, arguments())
