"""A few kills of small runs; scripts/kill.py makes many of a longer one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gluon_compress import export
from gluon_compress.data import make_toy
from gluon_compress.storage.atomic import write_json
from gluon_compress.train import Schedule, fit
from tools.kill import Campaign
from training import QUIET, Batches, conv_net, cross_entropy, figures

SCHEDULE = Schedule(
    epochs=2, learning_rate=0.1, warmup_epochs=0.5, clip_norm=2.0, validate_every=1
)


def small_run(data: Path, folder: Path) -> None:
    """Write everything there is: data, a training, an export twice, and a file."""
    make_toy(folder / "toy", images=10, size=64)
    net = conv_net()

    def shrink(net, progress):
        net[4].weight.set_data(net[4].weight.data() * (1 - 0.1 * progress.epoch))

    fit(
        net,
        Batches(3),
        cross_entropy,
        SCHEDULE,
        folder / "run",
        validate=figures(net),
        callbacks=[shrink],
        options=replace(QUIET, resume=True, seed=3, save_minutes=-1),
    )
    for _ in range(2):
        export(net, folder / "net", shape=(1, 2, 4, 4))
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
