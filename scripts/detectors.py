"""The page of a set of experiments with detectors, made of their result files alone."""

from __future__ import annotations

import statistics
from pathlib import Path

from aims import aims_table
from comparisons import BASES, TARGETS
from gains import gains_table
from learning import learning_table
from tables import by_net, mean_of, percent, results_of, table

HEAD = (
    *("net", "seeds", "GMACs", "MB", "mAP at 0.5", "range", "mAP at 0.5:0.95"),
    "least of a class",
)
FIGURES = {"mAP at 0.5": "mAP", "at 0.5:0.95": "voc_mAP_50_95"}
MARK = "<!-- results -->"  # where tables come into a page's text


def page(folder: Path, text: str) -> str:
    """Return the page as Markdown; an experiment without a result is named as such."""
    groups = by_net(results_of(folder))
    listed = [(kind, list(found.values())) for kind, found in groups.items()]
    listed.sort(key=_costliest_first)
    rows = [_row(folder, *one) for one in listed]
    drawn = any(any(found) for _, found in listed)
    plot = f"![mAP against GMACs]({folder.name}.png)\n" if drawn else ""
    aimed = aims_table(groups, TARGETS, FIGURES)
    gained = gains_table(groups, BASES, FIGURES)
    learnt = learning_table({kind: groups[kind] for kind, _ in listed})
    tables = "\n".join([table(HEAD, rows), plot, *aimed, *gained, *learnt])
    return text.replace(MARK, tables.rstrip("\n"))


def points_of(folder: Path) -> list[tuple[str, float, float]]:
    """Return name, GMACs and mean mAP of each net that has a result."""
    return [
        (kind, mean_of(done, "macs") / 1e9, 100 * mean_of(done, "mAP"))
        for kind, found in by_net(results_of(folder)).items()
        if any(done := list(found.values()))
    ]


def _costliest_first(group: tuple[str, list]) -> tuple:
    """Return what orders a table: by MACs, then by mAP, last what was not run."""
    kind, found = group
    if not any(found):
        return (1, kind)
    return (0, -mean_of(found, "macs"), -mean_of(found, "mAP"), kind)


def _row(folder: Path, kind: str, found: list) -> list[str]:
    first = sorted(folder.glob(f"{kind}_seed*")) or [folder / kind]
    link = f"[{kind}](../model_zoo/{folder.name}/{first[0].name}/recipe.json)"
    done = [stage for stage in found if stage]
    if not done:
        return [link, f"0 of {len(found)}", *[""] * (len(HEAD) - 3), "not run yet"]
    values = [stage["mAP"] for stage in done]
    seeds = (
        str(len(done)) if len(done) == len(found) else f"{len(done)} of {len(found)}"
    )
    cost = [f"{mean_of(done, 'macs') / 1e9:.3f}", f"{mean_of(done, 'bytes') / 1e6:.2f}"]
    spread = percent(max(values) - min(values)) if len(values) > 1 else "–"
    strict = percent(mean_of(done, "voc_mAP_50_95"))
    middle = percent(statistics.mean(values))
    return [link, seeds, *cost, middle, spread, strict, _least(done)]


def _least(done: list) -> str:
    """Return the class that is found worst, and its mean precision."""
    names = [name for name, value in done[0]["classes"].items() if value is not None]
    means = {n: statistics.mean(stage["classes"][n] for stage in done) for n in names}
    name = min(means, key=means.__getitem__)
    return f"{name} {percent(means[name])}"
