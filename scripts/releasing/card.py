"""The card of a model: what it is for, how good, how large, how it was made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gluon_compress.provenance import ROOT
from releasing.figures import rows
from releasing.training import training
from releasing.use import use
from tables import table

TASKS = {"ssd": "object detection", "classifier": "image classification"}
SHOWN = 20  # classes that are named


def card(entry: Any, folder: Path) -> str:
    """Return the page of a model, from its row of the index and its result alone."""
    from gluon_compress.storage.atomic import read_json

    result = folder / "result.json"
    whole = read_json(result) if result.exists() else {}
    parts = [
        f"# {entry.name}",
        _what(entry),
        table(("", ""), rows(entry, whole)).rstrip(),
        "## Use",
        use(entry, folder),
        "## Training",
        training(entry, folder),
        "## Limits",
        _limits(entry),
    ]
    return "\n\n".join(parts) + "\n"


def _what(entry: Any) -> str:
    names = ", ".join(entry.classes[:SHOWN])
    more = len(entry.classes) - SHOWN
    names += f" and {more} more" if more > 0 else ""
    state = "trained on" if entry.weights else "a structure, not trained here, for"
    return (
        f"For {TASKS[entry.kind]}, {state} {entry.data}: {names}. Images are "
        f"{entry.size} × {entry.size} pixels."
    )


def _limits(entry: Any) -> str:
    if not entry.weights:
        return "Its accuracy is not known: it was never trained."
    page = re.search(r"--out runs/(\w+) ", entry.command)
    compared = ""
    if page and (ROOT / "docs" / f"{page[1]}.md").exists():
        compared = (
            f" [{page[1]}.md](../../docs/{page[1]}.md) holds it against other nets, of "
            "which some have learnt for longer."
        )
    threshold = (
        ": after few epochs of training, few reach the 0.5 that `scripts/detect.py` "
        "asks for; its `--threshold` lowers that"
    )
    return (
        f"It knows {entry.data} and nothing else; on other images it was not measured. "
        "Scores are not calibrated probabilities"
        f"{threshold * (entry.kind == 'ssd')}.{compared}"
    )
