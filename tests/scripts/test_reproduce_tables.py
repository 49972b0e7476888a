"""The paper's tables come from result files alone, and say which figure is whose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.costs import with_plans
from experiments.results import note
from gluon_compress.storage.atomic import read_json, write_json
from refusals import assert_refused

ROOT = Path(__file__).resolve().parents[2]
STAGE = {"macs": 2 * 10**9, "bytes": 16 * 10**6}


@pytest.fixture
def project(tmp_path):
    """Return a copy of what the tables are made of."""
    ignored = shutil.ignore_patterns("*.params", "*-symbol.json")
    shutil.copytree(ROOT / "model_zoo", tmp_path / "model_zoo", ignore=ignored)
    (tmp_path / "docs" / "benchmark").mkdir(parents=True)
    timed = Path("docs", "benchmark", "result.json")
    shutil.copyfile(ROOT / timed, tmp_path / timed)
    shutil.copyfile(ROOT / "docs" / "reproduce.md", tmp_path / "docs" / "reproduce.md")
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    return tmp_path


def put(project, name: str, mAP: float) -> None:
    """Add a detector's result as a run would."""
    path = project / "model_zoo" / name / "result.json"
    write_json(path, {"stages": {"compact": {**STAGE, "mAP": mAP}}})
    note(project / "model_zoo", path)


def lines(project) -> dict[str, list[str]]:
    """Return the cells of all rows of the page, by the first."""
    text = (project / "docs" / "reproduce.md").read_text("utf-8")
    rows = [cells_of(line) for line in text.splitlines() if "|" in line]
    return {row[0]: row for row in rows}


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_in_the_project_are_those_of_its_results(call):
    assert call("reproduce_tables", "--check")[0] == 0


def test_means_are_of_all_seeds(call, project):
    for seed, value in enumerate((0.8, 0.9, 0.95)):
        put(project, f"bccd/compact_distilled_seed{seed}", value)
    assert call("reproduce_tables", "--root", project)[0] == 0
    row = lines(project)["compact, 2.31 GMACs"]
    assert row[4:6] == ["not measured here", "88.3, 3 seeds"]
    readme = (project / "README.md").read_text("utf-8").splitlines()
    (row,) = [cells_of(line) for line in readme if line.startswith("| compact, ")]
    assert row[-1] == "88.3"


def test_seeds_that_are_missing_are_said(call, project):
    for path in (project / "model_zoo").glob("bccd/lite_seed*/result.json"):
        path.unlink()
    sums = project / "model_zoo" / "results.json"
    kept = {n: s for n, s in read_json(sums).items() if "bccd/lite_seed" not in n}
    write_json(sums, kept)
    put(project, "bccd/lite_seed1", 0.5)
    call("reproduce_tables", "--root", project)
    assert "50.0, 1 of 3 seeds" in lines(project)["SSD-300 MobileNet1.0, classic"]


def test_altered_figures_of_others_are_not_written(call, project):
    path = project / "model_zoo" / "published.json"
    changed = path.read_text("utf-8").replace("71.2", "72.9")
    path.write_text(changed, encoding="utf-8")
    refused = call("reproduce_tables", "--root", project)
    assert_refused(refused, "published.json: altered")


PLANS = ("ssd_300_resnet50_v1d_compact", "bccd/compact_s_distilled_seed1")


@pytest.mark.parametrize("name", PLANS)
def test_plans_are_those_that_were_counted(call, project, name):
    path = project / "model_zoo" / name / "plan.json"
    path.write_text(path.read_text("utf-8") + "\n", encoding="utf-8")
    refused = call("reproduce_tables", "--root", project, "--check")
    assert_refused(refused, f"{name}/plan.json: is not the plan that was counted")
    path.unlink()
    refused = call("reproduce_tables", "--root", project, "--check")
    assert_refused(refused, f"{name}/plan.json: this plan is missing")


def test_plan_that_was_not_counted_is_named(call, project):
    place = project / "model_zoo" / "fod" / "compact_distilled_seed9"
    place.mkdir()
    (place / "plan.json").write_text("{}", encoding="utf-8")
    refused = call("reproduce_tables", "--root", project)
    assert_refused(refused, "seed9/plan.json: its net was not counted")


def test_result_of_no_experiment_ends_the_script(call, project):
    file = project / "model_zoo" / "imagenette" / "experiments.json"
    content = read_json(file)
    del content["experiments"]["48_structure"]
    write_json(file, content)
    refused = call("reproduce_tables", "--root", project, "--check")
    assert_refused(refused, "48_structure/result.json", "no experiment")


def test_published_figures_stand_as_they_were_published(call, project):
    call("reproduce_tables", "--root", project)
    found = lines(project)
    for row in read_json(ROOT / "model_zoo" / "published.json")["detectors"]:
        assert found[row["name"]][4].startswith(f"{row['mAP']:.1f}")
        counted = [row.get("params"), row.get("bytes"), row.get("flops")]
        assert [cell == "–" for cell in found[row["name"]][1:4]] == [
            value is None for value in counted
        ]
        assert found[row["name"]][5] == row["source"]
    paper = found["SSD-300, compact (the paper)"]
    assert paper[1:4] == ["–", "16.3", "2.31"]


def test_no_column_holds_both(call, project):
    call("reproduce_tables", "--root", project)
    text = (project / "docs" / "reproduce.md").read_text("utf-8")
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    for table in tables:
        head, _, *rows = map(cells_of, table.splitlines())
        ours = "ours" in head[0]
        assert ours != ("source" in head)
        for name, *cells in rows:
            voc = dict(zip(head[1:], cells)).get("mAP, VOC07 test")
            if ours and voc:
                assert voc == "not measured here", name


def test_altered_result_ends_the_script(call, project):
    path = next((project / "model_zoo" / "imagenette").glob("*/result.json"))
    content = read_json(path)
    list(content["stages"].values())[-1]["top1"] = 0.99
    path.write_text(json.dumps(content))
    assert_refused(call("reproduce_tables", "--root", project), str(path), "altered")


def test_missing_result_ends_the_script(call, project):
    path = next((project / "model_zoo" / "imagenette").glob("*/result.json"))
    path.unlink()
    assert_refused(call("reproduce_tables", "--root", project), str(path), "missing")


def test_result_of_no_run_ends_the_script(call, project):
    path = project / "model_zoo" / "bccd" / "invented_seed0" / "result.json"
    path.parent.mkdir()
    path.write_text("{}")
    assert_refused(call("reproduce_tables", "--root", project), str(path), "no run")


@pytest.mark.parametrize(
    ("name", "figure"), [("docs/reproduce.md", "71.2"), ("README.md", "84.8")]
)
def test_stale_text_is_found(call, project, name, figure):
    path = project / name
    path.write_text(path.read_text("utf-8").replace(figure, "1.9"), encoding="utf-8")
    found = call("reproduce_tables", "--root", project, "--check")
    assert_refused(found, str(path), "stale")


def test_readme_without_marks_is_named(call, project):
    (project / "README.md").write_text("# none\n")
    assert_refused(call("reproduce_tables", "--root", project), "README.md", "table:")


def test_nets_whose_accuracy_is_shown_are_counted_with_20_classes():
    stored = read_json(ROOT / "model_zoo" / "costs" / "result.json")["measured"]
    assert sorted(stored) == with_plans(ROOT / "model_zoo")
    for name, cost in stored.items():
        limit = 1.155e9 if "compact_s" in name else 2.31e9
        assert 0.97 * limit < cost["macs"] <= limit
        assert cost["bytes"] <= 16.3e6


def test_costs_are_those_of_the_structures():
    stored = read_json(ROOT / "model_zoo" / "costs" / "result.json")["detectors"]
    index = {
        m["name"]: m for m in read_json(ROOT / "model_zoo" / "index.json")["models"]
    }
    for name in ("compact", "compact_s"):
        entry = index[f"ssd_300_resnet50_v1d_{name}"]
        for key in ("macs", "params", "bytes"):
            assert stored[name][key] == entry[key]
