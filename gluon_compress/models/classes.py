"""Names that classes of detectors may have."""

from __future__ import annotations

from typing import Sequence

# What results and logs hold beside the figures of classes, which they hold by name.
RESERVED = ("mAP", "kind", "epoch")


def check_detector_classes(classes: Sequence[str]) -> None:
    """Raise ValueError unless classes are distinct, and results can hold them."""
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes must be distinct names, not {classes!r}")
    reserved = [name for name in classes if name in RESERVED]
    if reserved:
        raise ValueError(
            f"class {reserved[0]!r}: results and logs use this name otherwise; "
            f"allowed: any but {', '.join(RESERVED)}"
        )
