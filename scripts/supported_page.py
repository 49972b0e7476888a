"""The page of supported models, from what was measured alone."""

from __future__ import annotations

TITLES = {
    "classifier": "Classifiers",
    "SSD": "SSD bodies",
    "YOLOv3": "YOLOv3 bodies",
    "CenterNet": "CenterNet bodies",
}


def page(found: dict) -> str:
    return ""
