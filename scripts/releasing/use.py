"""How to use a model: the part of its card with commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from releasing.training import PYTHON

MEASURE = {"ssd": "evaluate.py", "classifier": "evaluate_classifier.py"}
SAID = {
    "ssd": "In a checkout, on images of your own, on those that its metric is of, and "
    "to a file for a device:",
    "classifier": "In a checkout, on the images that its metric is of (their middle, "
    "by `data.crop_val_sample`, as `data.normalize` makes it of pixels):",
}


def use(entry: Any, folder: Path) -> str:
    """Return how a model is had, measured anew, and put to work."""
    given = ", pretrained=True" if entry.weights else ""
    made = f"""```python
import gluon_compress as gc

net = gc.get_model("{entry.name}"{given})
```"""
    if not entry.weights:
        return made
    place = f"model_zoo/{entry.name}"
    lines = [f"scripts/{MEASURE[entry.kind]} {place} {_images(folder)}"]
    if entry.kind == "ssd":
        lines = [f"scripts/detect.py {place} IMAGES --out found", *lines]
        options = "--out edge --formats onnx --images IMAGES"
        lines.append(f"scripts/export.py {place} {options}")
    shown = "\n".join(f"    {PYTHON} {line}" for line in lines)
    return f"{made}\n\n{SAID[entry.kind]}\n\n{shown}"


def _images(folder: Path) -> str:
    """Return the options for the images that the metric is of."""
    from gluon_compress.storage.atomic import read_json

    data = read_json(folder / "recipe.json")["data"]
    return f"--data {data['root']} --split {data.get('test') or data.get('val')}"
