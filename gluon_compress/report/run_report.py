"""The report of a run: its table, its pictures and its page.

Reads the files that the stages left; nothing is computed here but the detections that
are drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from gluon_compress import report
from gluon_compress.data import BrokenImage
from gluon_compress.detection_errors import DETECTIONS
from gluon_compress.detector import load_detector
from gluon_compress.plan import Sensitivity
from gluon_compress.plan.policies.episodes import SEARCH_LOG
from gluon_compress.recipe import Recipe
from gluon_compress.report.error_report import ErrorReport
from gluon_compress.train import read_log

EXAMPLES = 4
THRESHOLD = 0.4
NAMED = ("mAP", "top1")  # accuracies that ``Figures`` has a field for
METRICS = {"voc07": "VOC 2007 (11 points)", "voc10": "VOC 2010 (area)"}


def figures(recipe: Recipe, results: Mapping[str, Any]) -> list[report.Figures]:
    """Return the figures of each stage of a run's ``result.json``."""
    speed, metric = results["latency"], recipe.metric
    rows = []
    for name, stage in results["stages"].items():
        time = speed.get(name, {})
        accuracy: dict[str, Any] = {"others": {metric: stage[metric]}}
        if metric in NAMED:
            accuracy = {metric: stage[metric]}
        rows.append(
            report.Figures(
                name=name,
                params=stage["params"],
                bytes=stage["bytes"],
                macs=stage["macs"],
                latency_ms=time.get("median_ms"),
                latency_range=(time["p10_ms"], time["p90_ms"]) if time else None,
                runtime=time.get("runtime", "mxnet"),
                **accuracy,
            )
        )
    return rows


def table(recipe: Recipe, results: Mapping[str, Any]) -> str:
    """Return the table of the full net, each compression stage and the compact net."""
    return report.cost_table(figures(recipe, results))


def write_report(
    recipe: Recipe, results: Mapping[str, Any], out: str | Path, test
) -> Path:
    """Write ``report/`` in a run's folder and return its page.

    Parameters
    ----------
    recipe : Recipe
    results : mapping
        What ``pipeline.run`` returns.
    out : path
        Folder of the run.
    test
        Data set whose first images are drawn.
    """
    out = Path(out)
    folder = out / "report"
    folder.mkdir(exist_ok=True)
    stages = results["stages"]
    pictures = [*_plans(results, out), *_curves(recipe, results, out, folder)]
    precisions = {n: s for n, s in stages.items() if "classes" in s}
    tables: list[report.Table] = [*_bits(stages), *_zeros(stages), *_trials(stages)]
    if precisions:
        pictures += [_detections(out, n, test, folder) for n in _ends(stages)]
        errors = _errors(recipe, stages, out, test)
        if errors is not None:
            tables += errors.tables()
            last = load_detector(out / _ends(stages)[-1] / "model")
            pictures += errors.pictures(test, last.preprocess, folder)
    files = {name: out / name / "result.json" for name in stages}
    page = report.Page(
        title=f"{recipe.model.name}: {' and '.join(_ends(stages))}",
        summary=sentence(recipe, results),
        facts=_facts(recipe, results),
        figures=figures(recipe, results),
        tables=tables,
        pictures=pictures,
        precisions={
            n: {"mAP": s["mAP"], **s["classes"]} for n, s in precisions.items()
        },
        plans={n: s["groups"] for n, s in stages.items() if "groups" in s},
        results={"run": out / "result.json", **files},
    )
    report.html(folder / "index.html", page)
    return folder / "index.html"


def _errors(
    recipe: Any, stages: Mapping[str, Any], out: Path, test: Any
) -> ErrorReport | None:
    """Return the errors of the first and the last net, None if neither kept any."""
    files = {name: out / name / DETECTIONS for name in _ends(stages)}
    files = {name: file for name, file in files.items() if file.exists()}
    if not files:  # of a run of an earlier version
        return None
    return ErrorReport(
        files,
        test.classes,
        metric=recipe.evaluate.metric,
        iou=recipe.evaluate.iou,
        threshold=THRESHOLD,
    )


def _bits(stages: Mapping[str, Any]) -> list[report.Table]:
    """Return a table of the bits and bytes of each stage that quantises."""
    tables = []
    for name, stage in stages.items():
        if "quantisers" not in stage:
            continue
        head = ["layer", "weights, bits", "input, bits", "bytes"]
        rows = [
            [row["layer"], *(str(row[k]) for k in ("weights", "activations", "bytes"))]
            for row in stage["layers"]
        ]
        total = ["all weights", "", "", str(stage["weight_bytes"])]
        before = f"{stage['float32_bytes']} bytes in float32, all parameters"
        cells = [head, *rows, total]
        tables.append(report.Table(f"Bits after {name}", cells, before, total=True))
    return tables


def _zeros(stages: Mapping[str, Any]) -> list[report.Table]:
    """Return a table of the zeros and bytes of each stage that makes weights zero."""
    tables = []
    for name, stage in stages.items():
        if "sparsity" not in stage:
            continue
        notes, keys = stage["sparsity"], ("weights", "zeros", "bytes")
        rows = [[r["layer"], *(str(r[k]) for k in keys)] for r in notes["layers"]]
        total = ["all of these", *(str(notes[k]) for k in keys)]
        before = f"{notes['float32_bytes']} bytes in float32, all parameters"
        cells = [["layer", *keys], *rows, total]
        tables.append(report.Table(f"Zeros after {name}", cells, before, total=True))
    return tables


def _trials(stages: Mapping[str, Any]) -> list[report.Table]:
    """Return a table of what each search for the strongest compression has tried."""
    tables = []
    for name, stage in stages.items():
        rows = [
            [
                f"{trial['strength']:.3f}",
                f"{trial['drop']:.2f}",
                "yes" if trial["within"] else "no",
            ]
            for trial in stage.get("trials", ())
        ]
        if rows:
            cells = [["strength", "points lost", "within the limit"], *rows]
            note = f"taken: {stage['strength']:.3f}; 1 is what the recipe states"
            tables.append(report.Table(f"Strengths tried by {name}", cells, note))
    return tables


def _ends(stages: Mapping[str, Any]) -> list[str]:
    """Return the names of the first and the last stage."""
    names = list(stages)
    return list(dict.fromkeys([names[0], names[-1]]))


def sentence(recipe: Recipe, results: Mapping[str, Any]) -> str:
    """Return one paragraph: what was saved, and what accuracy was measured on."""
    stages, data = results["stages"], results["data"]
    ends = _ends(stages)
    full, last = stages[ends[0]], stages[ends[-1]]
    saved = (
        f"The compact net has {last['macs'] / full['macs']:.1%} of the full one's "
        f"multiply-accumulates and {last['bytes'] / full['bytes']:.1%} of its bytes. "
    )
    measured = (
        f"mAP is {METRICS[last['metric']]} at IoU {last['iou']:g}"
        if "mAP" in last
        else f"Accuracy is {last.get('metric', recipe.metric)}"
    )
    return (
        f"{saved if last is not full else ''}{measured} on {data['test']['images']} "
        f"test images of {Path(data['root']).name}{_left_out(data['test'])}."
    )


def _left_out(counts: Mapping[str, Any]) -> str:
    skipped = counts.get("skipped")
    return f"; {skipped} that cannot be used are left out" if skipped else ""


def _facts(recipe: Recipe, results: Mapping[str, Any]) -> dict:
    keys = ("seed", "commit", "date", "hardware", "versions", "data")
    facts = {key: results[key] for key in keys if results.get(key) is not None}
    rows = [row.algorithm for row in recipe.compression]
    tuned = f"{recipe.finetune.epochs} epochs" if recipe.finetune else "none"
    return {
        "paper": recipe.paper,
        "command": recipe.command,
        "train": f"{recipe.train.epochs} epochs",
        "compression": ", ".join(rows) or "none",
        "fine-tuning": tuned,
        "distillation": _taught(recipe.distillation),
        **facts,
    }


def _taught(distillation: Any) -> Any:
    if distillation is None:
        return "none"
    return dict(getattr(distillation, "losses", {})) or "soft targets"


def _plans(results: Mapping[str, Any], out: Path) -> list[report.Picture]:
    pictures = []
    for name, stage in results["stages"].items():
        if "groups" in stage:
            pictures.append(_plan(name, stage["groups"], out / "report"))
        measured = out / name / "sensitivity.json"
        if measured.exists():
            pictures.append(_sensitivity(name, measured, out / "report"))
        searched = out / name / SEARCH_LOG
        if searched.exists():
            pictures.append(_search(name, searched, out / "report"))
    return pictures


def _plan(name: str, groups: list[dict], folder: Path) -> report.Picture:
    file = folder / f"plan_{name}.png"
    report.kept_chart(groups, file, title=name)
    frozen = sum(bool(group["frozen"]) for group in groups)
    held = sum(bool(group.get("held")) for group in groups)
    caption = (
        "Channels that each group keeps, in the order of the network, and its share of "
        "what was saved. A group is the channels of all layers that live or die "
        f"together. {frozen} groups are frozen, {held} were left alone."
    )
    alt = f"Bars of the share of channels kept by each group in {name}"
    return report.Picture(file.name, f"Plan of {name}", caption, alt)


def _sensitivity(name: str, measured: Path, folder: Path) -> report.Picture:
    file = folder / f"sensitivity_{name}.png"
    report.sensitivity_chart(Sensitivity.load(measured), file)
    caption = "Accuracy on training images when one group alone loses channels."
    alt = f"Curves of accuracy over the share of channels kept, of each group in {name}"
    return report.Picture(file.name, f"Sensitivity at {name}", caption, alt)


def _search(name: str, searched: Path, folder: Path) -> report.Picture:
    file = folder / f"search_{name}.png"
    log = report.read_search_log(searched)
    report.search_chart(log, file)
    caption = (
        "Reward of every plan that the search tried, what it takes of the budget, and "
        f"what each group kept. The best reward is {log.rewards.max():.3f}, that of "
        f"the reference {log.reference:.3f}."
    )
    alt = f"Points of the reward over the episodes of {log.name}, and a map of widths"
    return report.Picture(file.name, f"Search at {name}", caption, alt)


def _curves(
    recipe: Recipe, results: Mapping, out: Path, folder: Path
) -> list[report.Picture]:
    logs = {name: out / name / "log.jsonl" for name in results["stages"]}
    logs = {name: log for name, log in logs.items() if log.exists()}
    if not logs:
        return []
    measure = recipe.metric
    report.curves(logs, folder / "curves.png", measure=measure)
    caption = (
        "Training loss, validation and learning rate of each stage that trained. "
        "The loss of a distilled stage holds the teacher's parts too."
    )
    alt = f"Loss, {measure} and learning rate over the steps of " + ", ".join(logs)
    training = report.Picture("curves.png", "Training", caption, alt)
    return [training, *_part_curves(logs, folder)]


def _part_curves(logs: Mapping, folder: Path) -> list[report.Picture]:
    steps = [step for log in logs.values() for step in read_log(log)[0]]
    if not any(step["parts"] for step in steps):
        return []
    report.part_curves(logs, folder / "parts.png")
    caption = (
        "What the loss of each stage is made of, before weights: what labels say, and "
        "each distillation loss where there is a teacher."
    )
    alt = "Each part of the loss over the steps of " + ", ".join(logs)
    return [report.Picture("parts.png", "Parts of the loss", caption, alt)]


def _detections(out: Path, name: str, test: Any, folder: Path) -> report.Picture:
    detector = load_detector(out / name / "model")
    examples: list[report.Example] = []
    for i in range(len(test)):
        if len(examples) == EXAMPLES:
            break
        try:
            image, label = test[i]
        except BrokenImage:
            continue
        ids, scores, corner_boxes = detector.find(image, THRESHOLD)
        boxes = report.Boxes(corner_boxes, ids, scores)
        examples.append(report.Example(image, report.Boxes.of_label(label), boxes))
    file = folder / f"detections_{name}.png"
    report.detections(examples, detector.classes, file)
    caption = (
        f"The first {len(examples)} test images: ground truth on the left, what the "
        f"{name} net finds with a score from {THRESHOLD} on the right."
    )
    alt = f"Boxes of ground truth beside boxes found by the {name} net"
    return report.Picture(file.name, f"Detections of the {name} net", caption, alt)
