"""What the page of the paper's tables says beside them."""

from __future__ import annotations

from typing import Mapping

from reproducing.rows import OURS

TEXT = """# The paper's tables

What others published stands apart from what was measured here, and no column of
accuracy holds both: they trained on Pascal VOC and ImageNet, which are not at hand.
Sizes of ours are those of float32 parameters; one GMAC is two GFLOPs. Published figures
stand as their sources have them.

Made by `scripts/reproduce_tables.py` from the result files in `model_zoo/`; their sums
are noted when a run writes them, and a file that is missing or altered ends the script.
"""
DETECTORS = """\
The paper's abstract names neither the data of its mAP nor what its FLOPS count:
[paper_vs_code.md](paper_vs_code.md). More nets, seeds and spreads: [bccd.md](bccd.md),
[fod.md](fod.md).
"""
NOTES = """\
What others call FLOPs they did not all count alike, and do not say how: those of the
classic MobileNet are near the GMACs that are counted here. Size and work of ours are
those for 20 classes at 300 × 300 pixels, whatever data the mAP is of.
Compact nets are pruned from a full detector that is trained, and train for as many
epochs again. What that alone gains, the rows "trained as long as compact" show; the
full one of these rows is their teacher.
{widths}
FOD test10 are the test images of ten of its classes.
Means over other seeds are not to be subtracted; the page of each set does it by seed.
"""
WIDTHS = """\
MB and GMACs of the compact ones are those of the plans in `model_zoo/`. The nets whose
mAP stands beside them were pruned by what they had learnt, within the same limits; they
have as many MACs but fewer bytes: with 20 classes, {}."""


def widths(costs: Mapping) -> str:
    """Say how large the nets are whose accuracy stands in rows of a committed plan."""
    said = []
    for kind in ("compact", "compact_s"):
        names = [n for n in costs if n.split("/")[1].startswith(OURS[kind])]
        sizes = [costs[name]["bytes"] / 1e6 for name in names]
        said.append(f"{min(sizes):.1f} to {max(sizes):.1f} MB ({kind})")
    return WIDTHS.format(" and ".join(said))
