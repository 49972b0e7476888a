"""The comparison of policies: its page, and rows that are measured only once."""

from __future__ import annotations

import json

import pytest

import gluon_compress as gc
from benchmarks import policies
from benchmarks.policies_page import (
    EXPERIMENTS,
    MISSING,
    POLICIES,
    SEEDS,
    Row,
    page_of,
)
from gluon_compress import models
from images import NAMES, write_folder
from refusals import assert_refused
from tiny_nets import NAME

SETTINGS = {
    "size": 48,
    "search_size": 48,
    "images": 6,
    "sample": 12,
    "fit": 6,
    "points": 4,
    "episodes": 4,
}
PLACE = {"model": "net", "data": "images"}


def measured(policy: str, accuracy: float, seed: int = 0, **other) -> dict:
    """Return a row at half of the MACs, reconstructed."""
    row = Row(0.5, "reconstructed", policy, seed)
    figures = {"accuracy": accuracy, "plan_seconds": 3.0, "score": None}
    facts = {"tried": None, "cpu": "CPU", "commit": "0" * 40}
    return {row.key: {**row._asdict(), **figures, **facts, **other}}


def page(*rows: dict) -> str:
    both = {key: row for each in rows for key, row in each.items()}
    known = {**PLACE, **SETTINGS, "full": 0.9, "rows": both}
    return page_of({"experiments": {"mobilenet": known}})


def agents(*accuracies: float) -> list[dict]:
    found = {"tried": 40, "score": 0.5, "reference_score": 0.4, "plan_seconds": 60.0}
    found.update({"search_size": 96, "sample": 80})
    return [measured("amc", a, seed, **found) for seed, a in enumerate(accuracies)]


def test_page_without_rows_says_so_of_every_experiment():
    text = page_of({"experiments": {}})
    assert text.count(MISSING) == len(EXPERIMENTS)
    for experiment in EXPERIMENTS.values():
        assert f"## {experiment.title}" in text


def test_page_shows_what_is_there_and_what_is_not():
    text = page(measured("uniform", 0.625))
    half = text.split("### 50 %")[1].split("\n## ")[0]
    table = [line for line in half.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.split("|")[1:5]] for line in table]
    assert cells[0] == ["uniform", MISSING, "62.5", "–"]
    assert all(line[1:3] == [MISSING, MISSING] for line in cells[1:])
    assert len(cells) == sum(len(SEEDS.get(policy, (0,))) for policy in POLICIES)


@pytest.mark.parametrize(
    ("accuracies", "verdict", "gap"),
    [((0.6, 0.6, 0.62), "met", "+0.7"), ((0.5, 0.6, 0.6), "missed", "-3.3")],
)
def test_page_compares_the_mean_of_the_agents_with_the_best_greedy(
    accuracies, verdict, gap
):
    rows = measured("greedy", 0.5), measured("greedy_measured", 0.6)
    assert f"reconstructed: **{verdict}**, {gap} points" in page(
        *rows, *agents(*accuracies)
    )
    assert f"greedy, reconstructed: {MISSING}" in page(*rows, *agents(*accuracies[:2]))


def test_page_shows_what_a_search_went_by():
    line = next(row for row in page(*agents(0.6)).splitlines() if "60.0 |" in row)
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    search = ["50.0", "40.0", "40 × 80 at 96", "60"]
    assert cells == ["amc, seed 0", MISSING, "60.0", *search]


def test_page_says_whether_an_aim_is_met():
    assert "at least 55 when reconstructed: **met**, 55.0 by `greedy`" in page(
        measured("greedy", 0.55)
    )
    assert "at least 55 when reconstructed: **missed**, 54.9 by `uniform`" in page(
        measured("uniform", 0.549)
    )


def test_page_recommends_what_is_better():
    greedy = measured("greedy", 0.6)
    assert "Take `greedy` and reconstruct: the best search, `amc`, is 1.0 points" in (
        page(greedy, *agents(0.59))
    )
    gain = "`amc`, gains 2.0 points over `greedy`, for 60 CPU seconds and 40 episodes"
    assert gain in page(greedy, *agents(0.62))


@pytest.mark.usefixtures("tiny_nets")
def test_rows_are_measured_once_by_any_process(call, tmp_path, monkeypatch):
    write_folder(tmp_path / "images", train=8, val=2)
    net = gc.build(NAME, NAMES, size=48)
    models.save(net, tmp_path / "net", NAME)
    places = {name: tmp_path / name for name in ("work", "out", *PLACE.values())}
    options = ["mobilenet", "--model", places["net"], "--data", places["images"]]
    options += ["--work", places["work"], "--shares", 0.7, "--repairs", "recalibrated"]
    for name, value in SETTINGS.items():
        options += [f"--{name.replace('_', '-')}", value]

    status, out, error = call("benchmark_policies", *options, "--policies", "uniform")
    assert (status, error) == (0, "")
    assert out.startswith("0.7-recalibrated-uniform-0: ")
    chosen = ["--policies", "uniform", "random_search", "--out", places["out"]]
    status, out, error = call("benchmark_policies", *options, *chosen)
    assert (status, error) == (0, "")
    assert out.startswith("0.7-recalibrated-random_search-0: ")  # the one that is new

    result = json.loads((places["out"] / "result.json").read_text())
    rows = result["experiments"]["mobilenet"]["rows"]
    assert set(rows) == {
        "0.7-recalibrated-uniform-0",
        "0.7-recalibrated-random_search-0",
    }
    assert rows["0.7-recalibrated-random_search-0"]["tried"] == 4
    macs = result["experiments"]["mobilenet"]["cost"]["macs"]
    assert all(row["macs"] <= 0.7 * macs for row in rows.values())
    assert (places["out"] / "policies.md").read_text() == page_of(result)
    monkeypatch.setattr(policies, "_plan", None)  # nothing is left to do
    assert call("benchmark_policies", *options, *chosen)[:2] == (0, "")
    options[options.index("--points") + 1] = 5
    refused = call("benchmark_policies", *options, *chosen)
    assert_refused(refused, "points", "4", "5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--policies", "best"), ("--policies", "best", "uniform")),
        (("--shares", "0.6"), ("--shares", "0.6", "0.7")),
        (("--seeds", "9"), ("--seeds", "9", "0, 1, 2")),
        (("--table", "t.json"), ("--table", "t.json")),
    ],
)
def test_options_that_an_experiment_does_not_have_are_refused(
    call, tmp_path, options, words
):
    place = ["--model", "net", "--data", "images", "--work", tmp_path / "work"]
    refused = call("benchmark_policies", "mobilenet", *place, *options)
    assert_refused(refused, *words)
