"""How a model was made, or is to be made: its command, hours, files, and start."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from releasing.hours import hours_of
from reproducing.running import starts

PYTHON = ".venv/bin/python"  # of a checkout


def training(entry: Any, folder: Path) -> str:
    """Return the part of a model's card that says how it is trained."""
    made = f"    {PYTHON} {entry.command}\n\n"
    plan = " and [plan.json](plan.json)" if (folder / "plan.json").exists() else ""
    files = f"[recipe.json](recipe.json){plan}"
    if not entry.weights:
        return (
            f"{made}About {entry.hours:g} hours on two cores, estimated and not run "
            f"here; {files}.{_trunk(entry, folder)}"
        )
    return (
        f"{made}It took {hours_of(folder)}, beside other work; how and what: {files}; "
        f"how well: [result.json](result.json).{_before(folder)} {_images(folder)}"
    )


def _before(folder: Path) -> str:
    """Return which nets a run needs, in the order they are made, and their hours."""
    made = []
    for recipe in dict.fromkeys(_needed(folder / "recipe.json", folder.parent)):
        name = f"{recipe.parent.parent.name}/{recipe.parent.name}"
        made.append(f"[{name}](../{name}/recipe.json) ({hours_of(recipe.parent)})")
    if not made:
        return ""
    return (
        f" The command first makes what that needs and is not there: {', '.join(made)}."
    )


def _images(folder: Path) -> str:
    """Return where the images of all that a run trains are to lie."""
    from gluon_compress.storage.atomic import read_json

    own = folder / "recipe.json"
    recipes = [*_needed(own, folder.parent), own]
    roots = dict.fromkeys(read_json(recipe)["data"]["root"] for recipe in recipes)
    places = " and ".join(f"DIR/{Path(root).name}" for root in roots)
    return (
        f"With `--data DIR`, images are looked for in {places}, without it in "
        f"{' and '.join(f'`{root}`' for root in roots)}."
    )


def _needed(recipe: Path, zoo: Path) -> list[Path]:
    """Return the recipes of the zoo that one starts from, each after its own."""
    paths = [zoo / kind / name / "recipe.json" for kind, name, _ in starts(recipe)]
    found = [path for path in paths if path.exists()]  # others are not of the zoo
    return [one for path in found for one in (*_needed(path, zoo), path)]


def _trunk(entry: Any, folder: Path) -> str:
    """Return what a detector that was not trained here is to start from."""
    from gluon_compress.storage.atomic import read_json

    if entry.kind != "ssd":
        return ""
    trunk = read_json(folder / "recipe.json")["model"].get("trunk")
    if trunk is None:
        return " It starts from random values."
    own = folder.parent / PurePosixPath(trunk).parts[1]
    if not (own / "recipe.json").exists():
        return f" Its trunk, `{trunk}`, is made first."
    return (
        f" Its trunk, `{trunk}`, is made first, by [{own.name}](../{own.name}/"
        f"recipe.json): {hours_of(own)} more."
    )
