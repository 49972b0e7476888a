"""How a model was made, or is to be made: its command, hours, files, and start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reproducing.running import starts


def training(entry: Any, folder: Path) -> str:
    """Return the part of a model's card that says how it is trained."""
    made = f"    {entry.command}\n\n"
    plan = " and [plan.json](plan.json)" if (folder / "plan.json").exists() else ""
    files = f"[recipe.json](recipe.json){plan}"
    if not entry.weights:
        return (
            f"{made}About {entry.hours:g} hours on two cores, not run here; {files}."
            f"{_trunk(entry, folder)}"
        )
    return (
        f"{made}About {entry.hours:g} hours on two cores; {files} say how and what, "
        f"[result.json](result.json) how well.{_before(folder)} With `--data DIR`, the "
        f"images of {entry.data} are looked for in DIR."
    )


def _before(folder: Path) -> str:
    """Return which nets a run starts from or learns from, and how long they take."""
    from gluon_compress.files import read_json

    made = []
    for kind, name, _ in starts(folder / "recipe.json"):
        recipe = folder.parent / kind / name / "recipe.json"
        if recipe.exists():  # otherwise it is no experiment of the zoo
            hours = read_json(recipe)["hours"]
            place = f"../{kind}/{name}/recipe.json"
            made.append(f"[{kind}/{name}]({place}) ({hours:g} hours)")
    if not made:
        return ""
    return (
        f" The command first makes what that needs and is not there: {', '.join(made)}."
    )


def _trunk(entry: Any, folder: Path) -> str:
    """Return what a detector that was not trained here is to start from."""
    from gluon_compress.files import read_json

    if entry.kind != "ssd":
        return ""
    trunk = read_json(folder / "recipe.json")["model"].get("trunk")
    if trunk is None:
        return " It starts from random values."
    return (
        f" Its trunk, `{trunk}`, is made first, by a recipe of its own, whose hours "
        "are not among these."
    )
