"""What is timed: nets by name or by folder, deployed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

from gluon_compress.provenance import ROOT
from speed.convolution import CONV, deploy_conv, noise

# Nets of 20 classes at 300 x 300, and what is built for each, with a plan or without.
NETS = {
    "full": ("ssd_300_resnet50_v1d", None),
    "compact": ("ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact"),
    "compact_s": ("ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact_s"),
    "mobilenet": ("ssd_300_mobilenet1.0", None),
    "lite": ("ssd_300_mobilenet1.0_lite", None),
    "resnet50_v1d_0.48": ("ssd_300_resnet50_v1d_0.48", None),
    "resnet50_v1d_0.37": ("ssd_300_resnet50_v1d_0.37", None),
}


def folder_of(name: str, place: Path, formats: Sequence[str]) -> Path:
    """Return a deployed folder: that of the name, or one made for a net of ``NETS``.

    Raises
    ------
    ValueError
        If it is neither, or the folder lacks a format.
    """
    from gluon_compress.storage.artifacts import MANIFEST, verified

    made = place / name if name in (*NETS, CONV) else Path(name)
    if (made / MANIFEST).exists():
        missing = set(formats) - set(verified(made)["formats"])
        if not missing:
            return made
        if made == Path(name):
            raise ValueError(f"{name}: has no format {min(missing)!r}")
    if name == CONV:
        return deploy_conv(made, formats)
    if name not in NETS:
        allowed = ", ".join(NETS)
        raise ValueError(f"{name}: no deployed folder, nor one of {allowed}")
    return _deploy(name, made, formats)


def _deploy(name: str, folder: Path, formats: Sequence[str]) -> Path:
    import gluon_compress as gc

    images = noise((4, 3, 300, 300))
    how = {"formats": formats, "images": images, "calibration": "naive"}
    gc.deploy(built(name), folder, "net", **how)
    return folder


def built(name: str):
    """Return a net of ``NETS`` or ``build``; starting values change no time."""
    import gluon_compress as gc

    model, plan = NETS.get(name, (name, None))
    net = gc.build(model)
    if plan is None:
        return net
    return gc.slim(net, gc.Plan.load(ROOT / "model_zoo" / plan / "plan.json"))


def facts_of(folder: Path, name: str) -> dict:
    """Return MACs, input shape, files of a format, and their bytes."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = manifest["formats"][name]["files"]
    return {
        "macs": manifest["cost"]["macs"],
        "shape": manifest["input"]["shape"],
        "files": [str(folder / file) for file in files],
        "bytes": sum(manifest["files"][file]["bytes"] for file in files),
    }
