"""The model of a distributed step, and the page of the benchmark."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import distributed
from benchmarks.distributed import fitted, page_of, predicted
from benchmarks.distributed_model import BYTES, GBIT, Costs, Model, efficiency, hours
from recipes import RECIPE

MODEL = Model(Costs(1e-3, 2e-5, 1e-9), Costs(5e-4, 1e-5, 2e-9))
SIZES = [(8, 2e4), (80, 2e4), (8, 2e6), (40, 2e6)]


def rows(way: str, ranks: int, model: Model = MODEL) -> list[dict]:
    """Return what would be measured if a model were exact."""
    found = []
    for keys, numbers in SIZES:
        work = model.step(way, ranks, keys, numbers, 0.0)
        found.append({"ranks": ranks, "keys": keys, "numbers": numbers, **work})
    return found


@pytest.mark.parametrize("way", list(BYTES))
def test_costs_are_found_again(way):
    model = Model.fitted(way, [*rows(way, 1), *rows(way, 4)])
    for who in ("worker", "server"):
        for name, value in asdict(getattr(MODEL, who)).items():
            assert getattr(getattr(model, who), name) == pytest.approx(value, rel=1e-6)


def test_costs_are_never_below_zero():
    costs = Costs.fitted([(1, 0), (2, 0), (3, 1e6)], [3.0, 2.0, 1.0])
    assert min(costs.step, costs.key, costs.byte) >= 0


def test_work_of_a_step_on_one_machine():
    work = MODEL.step("plain", 2, 10, 1_000_000, 0.5)
    worker = 0.5 + 1e-3 + 10 * 2e-5 + 8e6 * 1e-9
    server = 2 * (5e-4 + 10 * 1e-5 + 8e6 * 2e-9)
    assert work["worker"] == pytest.approx(worker)
    assert work["server"] == pytest.approx(server)
    assert work["work"] == pytest.approx(2 * worker + server)
    assert MODEL.wall(work, 2, 1) == pytest.approx(2 * worker + server)
    assert MODEL.wall(work, 3, 2) == pytest.approx(2 * worker + server)


def test_step_of_machines_adds_the_network():
    one = MODEL.seconds("plain", 1, 10, 1_000_000, 0.5, 10)
    assert one == 0.5
    four = MODEL.seconds("plain", 4, 10, 1_000_000, 0.5, 10)
    local = 0.5 + 1.5e-3 + 10 * 3e-5 + 8e6 * 3e-9
    assert four == pytest.approx(local + 8e6 * 3 / 4 / (10 * GBIT))
    twice = MODEL.seconds("exact", 4, 10, 1_000_000, 0.5, 10) - 0.5 - 1.8e-3
    assert twice == pytest.approx(2 * (four - 0.5 - 1.8e-3))
    assert efficiency(0.5, four) == pytest.approx(0.5 / four)


def test_hours_of_a_recipe():
    recipe = {"hours": 10, "steps": 36_000, "keys": 0, "numbers": 0}  # 1 s a step
    free = Model(Costs(0, 0, 0), Costs(0, 0, 0))
    assert hours(free, "plain", 1, recipe, 10) == pytest.approx(10)
    assert hours(free, "plain", 4, recipe, 10) == pytest.approx(2.5)
    slow = Model(Costs(1.0, 0, 0), Costs(0, 0, 0))
    assert hours(slow, "plain", 4, recipe, 10) == pytest.approx(2.5 + 10)


def test_page_compares_what_was_measured_with_the_model():
    net = {"name": "n", "pixels": 64, "batch": 8, "keys": 60, "numbers": 4e5}
    groups = []
    for way, ranks in (("plain", 2), ("exact", 4), ("2bit", 2)):
        work = MODEL.step(way, ranks, 60, 4e5, 0.1)
        step = {**net, "worker": work["worker"], "server": 1.5 * work["server"]}
        groups.append(
            {
                "way": way,
                "ranks": ranks,
                "exchanges": rows(way, ranks),
                "steps": [{**step, "wall": 0.5}],
            }
        )
    models = {way: fitted(way, groups) for way in BYTES}
    steps = predicted(models, groups, {"n": 0.1})
    work = MODEL.step("plain", 2, 60, 4e5, 0.1)
    error = work["work"] / (work["work"] + 0.5 * work["server"]) - 1
    assert steps[0]["error"] == pytest.approx(error)
    page = page_of(
        {
            "rounds": 3,
            "cores": 1,
            "hardware": {"cpu": "a processor"},
            "commit": "c",
            "date": "2026-01-01T00:00:00Z",
            "model": {way: asdict(model) for way, model in models.items()},
            "alone": [{**net, "worker": 0.1}],
            "exchanges": groups,
            "steps": steps,
            "recipes": [
                {"name": "r", "hours": 5, "steps": 100, "keys": 60, "numbers": 4e5}
            ],
            "accuracy": {
                "recipe": "x.json",
                "metric": "mAP",
                "rows": [
                    {"threshold": None, "accuracy": 0.5},
                    {"threshold": 0.01, "accuracy": None},
                ],
            },
        }
    )
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    assert ["none", "0.5000"] in cells
    assert ["0.01", "–"] in cells
    assert any(row[:3] == ["n", "plain", "2"] and "100" in row for row in cells)
    assert page.count("computed") >= 2


def test_accuracy_is_that_of_the_last_stage_for_each_threshold(monkeypatch, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(
        json.dumps({**RECIPE, "model": {"name": "ssd_300_mobilenet0.25"}}),
    )
    commands = []

    def run(command, check):
        commands.append(command)
        out = Path(command[command.index("--out") + 1])
        out.mkdir()
        stages = {"full": {"mAP": 0.9}, "compact": {"mAP": 0.1 * len(commands)}}
        (out / "result.json").write_text(json.dumps({"stages": stages}))

    monkeypatch.setattr(distributed.subprocess, "run", run)
    found = distributed.accuracies(str(file), [0.01])
    assert found["metric"] == "mAP"
    assert found["rows"] == [
        {"threshold": None, "accuracy": 0.1},
        {"threshold": 0.01, "accuracy": 0.2},
    ]
    assert "--gradient-threshold" not in commands[0]
    assert commands[1][-2:] == ["--gradient-threshold", "0.01"]
