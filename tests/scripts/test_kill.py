"""A few kills of small runs; scripts/kill.py makes many of a longer one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gluon_compress import Budget, count, export, mask, select, trace
from gluon_compress.compression.controller import Compression
from gluon_compress.data import make_toy
from gluon_compress.plan import Constraints
from gluon_compress.prune import Rounds, mask_in_rounds
from gluon_compress.storage.atomic import write_json
from gluon_compress.train import Schedule, fit
from gluon_compress.validation import parse
from tools.kill import Campaign
from tools.kill_chains import drawn_chain, page_of
from training import QUIET, Batches, conv_net, cross_entropy

SCHEDULE = Schedule(
    epochs=2, learning_rate=0.1, warmup_epochs=0.5, clip_norm=2.0, validate_every=1
)


SHAPE = (1, 2, 4, 4)  # of Batches


def decide(graph, budget, within):
    constraints = Constraints(multiple=1, ends=True, within=within)
    return select(graph, budget, "l1", constraints=constraints)


def small_run(data: Path, folder: Path) -> None:
    """Write everything there is: data, a training, an export twice, and a file.

    The training decides masks in rounds.
    """
    make_toy(folder / "toy", images=5, size=64)
    net = mask(conv_net(), None, shape=SHAPE)
    (weight,) = net.collect_params(".*dense.*weight").values()

    def shrink(net, progress):
        weight.set_data(weight.data() * (1 - 0.1 * progress.epoch))

    budget = Budget.share(count(trace(net, SHAPE)), macs=0.5)
    rounds = Rounds(count=2, soft=True)
    fit(
        net,
        Batches(3),
        cross_entropy,
        SCHEDULE,
        folder / "run",
        validate=lambda: {"score": float(-weight.data().norm().asscalar())},
        callbacks=[shrink, mask_in_rounds(net, budget, decide, rounds, shape=SHAPE)],
        options=replace(QUIET, resume=True, seed=3, save_minutes=-1),
    )
    for _ in range(2):
        export(net, folder / "net", shape=SHAPE)
    write_json(folder / "result.json", {"seed": 3})


def careless_run(data: Path, folder: Path) -> None:
    with open(folder / "log", "a") as log:
        log.write("begun\n")
    (folder / "draft").write_text("")
    (folder / "draft").rename(folder / "done")


def test_killed_runs_end_the_same(tmp_path):
    campaign = Campaign(small_run, tmp_path, tmp_path / "runs", seed=1)
    campaign.run(8)
    assert campaign.operations > 100
    assert min(campaign.kills.values()) >= 2
    assert campaign.leftovers + campaign.differences == []
    assert campaign.runs == {
        "tried": campaign.runs["equal"],
        "equal": campaign.runs["equal"],
        "different": 0,
    }


def test_careless_run_is_found_out(tmp_path):
    campaign = Campaign(careless_run, tmp_path, tmp_path / "runs", seed=1)
    campaign.run(3)
    assert campaign.runs["different"] >= 1
    assert any(name.endswith("/log") for name in campaign.differences)


def test_chains_that_are_drawn_can_work():
    chains = [parse(Compression, {"compression": drawn_chain(n)}) for n in range(60)]
    orders = {tuple(row.algorithm for row in chain.compression) for chain in chains}
    assert {name for order in orders for name in order} == {
        *("prune", "sparsify", "binarize", "quantize")
    }
    assert ("quantize", "sparsify") in {order[-2:] for order in orders}


def test_a_page_of_killed_chains_counts_them_all():
    runs = {"tried": 3, "equal": 2, "different": 1}
    chain = {"rows": ["prune"], "kills": 4, "runs": runs}
    chain |= {"leftovers": [], "differences": ["run2/x"]}
    facts = {"seed": 0, "commit": "abc", "date": "2026-01-01T00:00:00Z"}
    page = page_of({**facts, "chains": [chain, chain]})
    assert "| all | 8 | 6 | 4 | 2 | 0 |" in " ".join(page.split())
    assert page.count("- run2/x") == 2
