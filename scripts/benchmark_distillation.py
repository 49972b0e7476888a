#!/usr/bin/env python
"""Time a step of training with and without a teacher, and the teacher alone, in turn.

  scripts/benchmark_distillation.py --out runs/distillation
  scripts/benchmark_distillation.py --student ssd_300_mobilenet1.0 --losses imitation
  scripts/benchmark_distillation.py --losses scores boxes --losses channels

The student is the full detector cut by --plan, or another one; the teacher is the full
SSD-300 on ResNet50-v1d. What is told are medians: a step from labels, the teacher's
forward pass, a step with both, and what losses and adapters cost beyond the teacher,
for each set of losses. With --out, also written to result.json and distillation.md.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Sequence

from common import above_0, add_out, main, parser, write_result
from speed.teacher import page_of, told
from speed.teaching import FULL, PLAN, steps

SETS = (  # those of recipes by default, with maps too, and those made for detectors
    ("scores", "boxes"),
    ("scores", "boxes", "features"),
    ("weighted_scores", "bounded_boxes", "hints"),
    ("imitation",),
    ("channels",),
    ("weighted_scores", "bounded_boxes", "hints", "imitation", "channels"),
)


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--student", default=FULL, metavar="MODEL")
    made.add_argument("--plan", default=PLAN, help="of the full one; default: compact")
    known = {"nargs": "+", "metavar": "LOSS", "action": "append"}
    made.add_argument("--losses", **known, help="a set; default: several in turn")
    made.add_argument("--stride", type=above_0, default=2, help="as in recipes")
    made.add_argument("--batch", type=above_0, default=8)
    made.add_argument("--rounds", type=above_0, default=8)
    add_out(made, "student", "sets", required=False)
    return made


def run(args) -> None:
    """Time set after set of losses, and print the medians."""
    sets = []
    for losses in args.losses or SETS:
        sets.append({"losses": list(losses), "ms": timed(args, losses)})
    print(told(sets))
    if args.out:
        how = {key: getattr(args, key) for key in ("student", "stride", "batch")}
        result = write_result(args.out, {**how, "sets": sets})
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        (Path(args.out) / "distillation.md").write_text(page, encoding="utf-8")


def timed(args, losses: Sequence[str]) -> dict[str, float]:
    """Build both nets, take turns, and return medians in milliseconds."""
    spent: dict[str, list] = {name: [] for name in ("labels", "teacher", "both")}
    ways = steps(args, losses)
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            if number:  # the first round makes the graphs
                spent[name].append(time.perf_counter() - begun)
    # Within a round, for over minutes a machine's speed drifts.
    rounds = zip(*spent.values())
    spent["beyond"] = [both - labels - teacher for labels, teacher, both in rounds]
    return {name: 1e3 * statistics.median(each) for name, each in spent.items()}


if __name__ == "__main__":
    main(run, arguments())
