"""Kills loops of random chains of compression, and compares what they leave in the end.

A chain is drawn by a seed: which algorithms, in which of the orders that can work, with
which settings. A loop of one's own trains a tiny net with it, writes a checkpoint after
every step, and exports the net in the end. It is killed as ``tools.kill`` does it.
"""

from __future__ import annotations

import argparse
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.storage.atomic import write_atomically
from gluon_compress.storage.reading import read_json
from tools.kill import Campaign

TEXT = """Kill loops that compress a tiny net, at many moments, and compare their ends.

  %(prog)s --kills 40 --out runs/kill_chains

Every chain of algorithms is drawn anew, for a classifier or a detector in turn, and its
loop is killed several times. Writes result.json and kill_chains.md.
"""
PAGE = "kill_chains.md"
INTRODUCTION = """# Killed chains of compression

{chains} chains of compression were drawn, for a tiny classifier and a tiny detector in
turn. Each was trained in a loop with `gc.compress` that writes a checkpoint after every
step and exports the net. The loops were killed at operations on files or at random
moments, then resumed, and compared with one that was not killed: parameters, masks,
scales and exported files, byte for byte. Seed {seed}; commit {commit}, {date}.
"""
HEAD = ("chain", "kills", "killed runs", "equal", "different", "files left over")
KILLS = 4  # of a chain
STEPS, EPOCHS = 3, 3  # of an epoch, and epochs
SIDE = 16
CHECKPOINT = "loop.ckpt"


def drawn_chain(seed: int) -> list[dict[str, Any]]:
    """Return the rows of a chain, one to three of them."""
    draw = random.Random(seed)
    sparse: dict[str, Any] = {"algorithm": "sparsify", "growth": {"epochs": 2}}
    sparse["growth"]["every"] = draw.choice([None, 1, 2])
    kind = draw.choice(["magnitude", "learned", "pattern", "adaptive"])
    if kind == "pattern":
        sparse["pattern"] = "2:4"
    else:
        sparse["level"] = draw.choice([0.5, 0.8])
        sparse["method"] = "magnitude" if kind == "magnitude" else "learned"
    if kind == "adaptive":
        sparse["growth"]["curve"] = kind
    possible = [
        {"algorithm": "prune", "budget": {"macs_ratio": 0.9}, "multiple": 1},
        sparse,
        {
            "algorithm": "binarize",
            "target": ["*conv1*"],
            "weights": draw.choice(["xnor", "dorefa"]),
            "activations_from": draw.choice([0, 1]),
        },
        {
            "algorithm": "quantize",
            "weights": {
                "bits": draw.choice([8, 4, 2]),
                "ranges": draw.choice(["max", "learned"]),
            },
            "activations": {
                "ranges": draw.choice(["fixed", "moving", "learned"]),
                "every": 1,
            },
        },
    ]
    rows = draw.sample(possible, draw.choice([1, 2, 2, 3]))
    order = [row["algorithm"] for row in possible]
    # Quantisers may come before masks of weights, too.
    early = draw.random() < 0.3 and "pattern" not in sparse
    rows.sort(key=lambda row: order.index(row["algorithm"]))
    names = [row["algorithm"] for row in rows]
    if early and names[-2:] == ["sparsify", "quantize"]:
        rows[-2:] = rows[:-3:-1]
    return rows


def tiny_net(seed: int) -> Any:
    """Return a classifier, or for odd seeds two heads on two maps, with values."""
    import mxnet as mx
    import numpy as np
    from mxnet.gluon import nn

    mx.random.seed(seed)
    np.random.seed(seed)
    net = _net(nn.HybridBlock, nn, heads=2 if seed % 2 else 1)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, SIDE, SIDE)))
    return net


def _net(base: type, nn: Any, *, heads: int) -> Any:
    class Tiny(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__(prefix="tiny_")
            with self.name_scope():
                self.stem, self.middle = nn.Conv2D(8, 3, 2, 1), nn.Conv2D(8, 3, 1, 1)
                self.norm, self.down = nn.BatchNorm(), nn.Conv2D(8, 3, 2, 1)
                self.one = nn.Conv2D(6, 1)
                self.two = nn.Conv2D(6, 1) if heads == 2 else nn.Dense(4)

        def hybrid_forward(self, F: Any, x: Any) -> Any:
            x = F.relu(self.stem(x))
            x = F.relu(x + self.norm(self.middle(x)))
            y = F.relu(self.down(x))
            if heads == 1:
                return self.two(F.relu(self.one(y)))
            maps = [
                F.transpose(m, axes=(0, 2, 3, 1)) for m in (self.one(x), self.two(y))
            ]
            return F.concat(*[F.reshape(m, shape=(0, -1, 6)) for m in maps], dim=1)

    return Tiny()


def loop(seed: int, data: Path, folder: Path) -> None:
    """Compress and train a tiny net by a chain, from its last checkpoint on."""
    import mxnet as mx
    import numpy as np
    from mxnet import autograd, gluon

    import gluon_compress as gc
    from gluon_compress.storage.atomic import write_json

    images = np.random.RandomState(seed).normal(size=(STEPS, 4, 3, SIDE, SIDE))
    batches = [(mx.nd.array(each),) for each in images]
    rows = drawn_chain(seed)
    net, controller = gc.compress(
        tiny_net(seed), rows, batches, epochs=EPOCHS, seed=seed
    )
    rates = {"learning_rate": 0.02, "momentum": 0.9}
    trainer = gluon.Trainer(net.collect_params(), "sgd", rates)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        controller.load(checkpoint, trainer)
    while controller.steps < STEPS * EPOCHS:
        mx.random.seed(controller.steps)  # of masks that are drawn
        (x,) = batches[controller.steps % STEPS]
        with autograd.record():
            loss = net(x).square().mean() + controller.loss()
        loss.backward()
        trainer.step(1)
        controller.step()
        controller.save(checkpoint, trainer)
    formats = ["packed"] if any(r["algorithm"] != "prune" for r in rows) else ["mxnet"]
    controller.export(folder / "edge", formats=formats)
    write_json(folder / "rows.json", {"compression": rows})


# ---------------------------------------------------------------- the command


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kills", type=above_0, default=40, metavar="N", help="default: 40"
    )
    parser.add_argument("--seed", type=int, default=0, help="of chains and moments")
    parser.add_argument(
        "--jobs", type=above_0, default=1, metavar="N", help="chains at a time"
    )
    add_out(parser, "chains", "runs", files=[PAGE])


def _kill(args: argparse.Namespace) -> None:
    """Carry out the campaign, and write and print what came of it."""
    first, chains = 1000 * args.seed, []
    numbers = range(first, first + -(-args.kills // KILLS))
    with TemporaryDirectory() as place, ThreadPoolExecutor(args.jobs) as pool:
        for chain in pool.map(partial(killed_chain, Path(place)), numbers):
            chains.append(chain)
            content = {"seed": args.seed, "chains": chains}
            result = write_result(args.out, content)  # each time, for it takes long
    page = page_of(read_json(result))
    write_atomically(Path(args.out) / PAGE, page)
    print(page)


def killed_chain(place: Path, seed: int, kills: int = KILLS) -> dict[str, Any]:
    """Kill the loop of a chain so often, and return what came of it."""
    place = place / str(seed)
    place.mkdir(parents=True)
    campaign = Campaign(partial(loop, seed), place, place / "runs", seed)
    campaign.run(kills)
    return {
        "rows": [_named(row) for row in drawn_chain(seed)],
        "detector": bool(seed % 2),
        "kills": sum(campaign.kills.values()),
        "runs": campaign.runs,
        "leftovers": campaign.leftovers,
        "differences": campaign.differences,
    }


def _named(row: Mapping[str, Any]) -> str:
    """Return a row in few words."""
    name, words = str(row["algorithm"]), []
    for key in ("pattern", "method", "level", "weights", "activations"):
        value = row.get(key)
        parts = value.values() if isinstance(value, Mapping) else [value]
        words += [str(part) for part in parts if part is not None]
    return f"{name} ({', '.join(words)})" if words else name


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    chains = result["chains"]
    facts = {**result, "date": result["date"][:10], "chains": len(chains)}
    rows = [_cells(", ".join(chain["rows"]), [chain]) for chain in chains]
    lines = [INTRODUCTION.format(**facts), table(HEAD, [*rows, _cells("all", chains)])]
    for chain in chains:
        lines += [f"- {n}\n" for n in (*chain["leftovers"], *chain["differences"])]
    return "\n".join(lines)


def _cells(name: str, chains: list) -> tuple[str, ...]:
    runs = [chain["runs"] for chain in chains]
    counts = [sum(chain["kills"] for chain in chains)]
    counts += [sum(run[key] for run in runs) for key in ("tried", "equal", "different")]
    counts.append(sum(len(chain["leftovers"]) for chain in chains))
    return (name, *map(str, counts))


COMMAND = Command(TEXT, _add_options, _kill)
