"""Times a training step with and without a teacher, and the teacher alone, in turn."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from benchmarks.nets import noise
from experiments.nets import FULL, NETS
from experiments.sets import PLAN, ZOO
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically

TEXT = """Time a step of training with and without a teacher, and the teacher alone.

  %(prog)s --out runs/distillation
  %(prog)s --student ssd_300_mobilenet1.0 --losses imitation
  %(prog)s --losses scores boxes --losses channels

The student is the full detector pruned by --plan, or another one; the teacher is the
full SSD-300 on ResNet50-v1d. For each set of losses, a step on labels, the teacher's
forward pass and a step with both take turns. Shows their medians, and what losses and
adapters cost beyond the teacher. With --out, also writes result.json and
distillation.md.
"""
SETS = (  # those of recipes by default, with maps too, and those made for detectors
    ("scores", "boxes"),
    ("scores", "boxes", "features"),
    ("weighted_scores", "bounded_boxes", "hints"),
    ("imitation",),
    ("channels",),
    ("weighted_scores", "bounded_boxes", "hints", "imitation", "channels"),
)
LABEL = [[30.0, 40, 150, 200, 3, 0], [100.0, 90, 280, 290, 7, 0]]  # of every image
MOST = 15  # per cent of the teacher's forward pass, beyond it
INTRODUCTION = """# Cost of a teacher

Time of a training step of {student}{cut}, with batches of {batch}: a step on labels,
the forward pass of the teacher (the full SSD-300), and a step with both, in turn.
*Beyond* is how much longer a step with both takes than the other two together: the
median over rounds. The aim was at most {most} % of the teacher's time. Large maps are
compared with a stride of {stride}. The spread of times is not known: a difference of a
few per cent may be chance.
"""
HEAD = ("losses", "labels", "teacher", "both", "beyond")
HEAD += ("of the teacher", "met", "of a step on labels")

PAGE = "distillation.md"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", default=FULL, metavar="MODEL")
    parser.add_argument(
        "--plan",
        default=ZOO / NETS["compact"].plan / PLAN,
        metavar="FILE",
        help="of the full one; default: compact",
    )
    parser.add_argument(
        "--losses",
        nargs="+",
        metavar="LOSS",
        action="append",
        help="a set; default: several in turn",
    )
    parser.add_argument("--stride", type=above_0, default=2, help="as in recipes")
    parser.add_argument("--batch", type=above_0, default=8)
    parser.add_argument("--rounds", type=above_0, default=8)
    add_out(parser, "student", "sets", required=False, files=[PAGE])


def _benchmark(args: argparse.Namespace) -> None:
    """Time set after set of losses, and print the medians."""
    sets = []
    for losses in args.losses or SETS:
        sets.append({"losses": list(losses), "ms": timed(args, losses)})
    print(table_of(sets))
    if args.out:
        settings = {key: getattr(args, key) for key in ("student", "stride", "batch")}
        result = write_result(args.out, {**settings, "sets": sets})
        page = page_of(json.loads(result.read_text(encoding="utf-8")))
        write_atomically(Path(args.out) / PAGE, page)


def timed(args: argparse.Namespace, losses: Sequence[str]) -> dict[str, float]:
    """Build both nets, take turns, and return medians in milliseconds."""
    seconds: dict[str, list[float]] = {n: [] for n in ("labels", "teacher", "both")}
    ways = steps(args, losses)
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:  # the first round makes the graphs
                seconds[name].append(time.perf_counter() - start)
    # Within a round, because a machine's speed drifts over minutes.
    rounds = zip(*seconds.values())
    seconds["beyond"] = [both - labels - teacher for labels, teacher, both in rounds]
    return {name: 1e3 * statistics.median(each) for name, each in seconds.items()}


def steps(
    args: argparse.Namespace, losses: Sequence[str]
) -> dict[str, Callable[[], None]]:
    """Return what is timed: functions that end when their work is done.

    Parameters
    ----------
    args
        With ``student``, ``plan``, ``stride`` and ``batch``.
    losses : sequence of str
        What a teacher teaches by, each with weight 1.
    """
    import mxnet as mx
    import numpy as np

    import gluon_compress as gc
    from gluon_compress.deployment import fused
    from gluon_compress.distill import needs_taps
    from gluon_compress.models import NamedBlock, family_of, supervised_step

    full, net = gc.build(FULL), gc.build(args.student)
    if args.student == FULL:
        net = gc.slim(net, gc.Plan.load(args.plan))
    images = mx.nd.array(noise((args.batch, 3, 300, 300)))
    family = family_of(net)
    targets = family.targets(net)([np.array(LABEL)] * args.batch)
    batch = [images, *map(mx.nd.array, targets)]
    weights = dict.fromkeys(losses, 1.0)
    taps = family.map_names(full) if needs_taps(weights) else ()
    form = {"taps": taps, "stride": args.stride}
    block = family.training_net(full, **form)
    teacher = fused(block)
    loss, context = family.loss(net), family.loss_context(net, **form) if taps else {}
    named = NamedBlock(teacher, block.names)
    both = gc.distil_step(named, taps, loss, weights=weights, **context)
    widths = family.map_widths(full) if taps else ()
    student = family.training_net(net, adapters=widths, **form)
    from_labels = supervised_step(loss)

    def teach() -> None:
        for output in teacher(images):
            output.wait_to_read()

    return {
        "labels": partial(_trainer(family.training_net(net), from_labels), batch),
        "teacher": teach,
        "both": partial(_trainer(student, both), batch),
    }


def _trainer(block: Any, step_loss: Callable) -> Callable[[Sequence], None]:
    """Return a function that trains a block on a batch."""
    from mxnet import autograd, gluon, nd

    block.hybridize(static_alloc=True, static_shape=True)
    options = {"momentum": 0.9, "learning_rate": 1e-9}  # noise teaches nothing
    trainer = gluon.Trainer(block.collect_params(), "sgd", options)

    def step(batch: Sequence) -> None:
        with autograd.record():
            loss, _ = step_loss(block, batch)
        loss.backward()
        trainer.step(1)
        nd.waitall()

    return step


# ---------------------------------------------------------------- the page


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    machine = f"{hardware['cpu']}, {hardware['threads']} threads"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    settings = {key: result[key] for key in ("student", "batch", "stride")}
    cut = ", pruned by a plan" if result["student"] == FULL else ""
    text = INTRODUCTION.format(**settings, cut=cut, most=MOST)
    return "\n".join([text, source, table_of(result["sets"])])


def table_of(sets: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the times, and of what is beyond the teacher."""
    return table(HEAD, [_row(each["losses"], each["ms"]) for each in sets])


def _row(losses: Sequence[str], ms: Mapping[str, float]) -> list[str]:
    shares = {part: 100 * ms["beyond"] / ms[part] for part in ("teacher", "labels")}
    met = "yes" if shares["teacher"] <= MOST else "no"
    times = [f"{ms[name]:.0f} ms" for name in HEAD[1:5]]
    of_teacher, of_labels = (f"{share:+.1f} %" for share in shares.values())
    return [", ".join(losses), *times, of_teacher, met, of_labels]


COMMAND = Command(TEXT, _add_options, _benchmark)
