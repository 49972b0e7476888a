"""How long a training took, or is thought to take."""

from __future__ import annotations

from pathlib import Path


def hours_of(folder: Path) -> str:
    """Return the hours of a recipe in words: measured where its result says them."""
    from gluon_compress.storage.atomic import read_json

    result = folder / "result.json"
    stages = read_json(result)["stages"].values() if result.exists() else ()
    took = [stage for stage in stages if stage.get("train_seconds")]
    if not took:
        return f"about {read_json(folder / 'recipe.json')['hours']:g} hours"
    hours = sum(stage["train_seconds"] for stage in took) / 3600
    threads = took[-1]["hardware"]["threads"]
    return f"{hours:.1f} hours on {threads} thread{'s' * (threads > 1)}"
