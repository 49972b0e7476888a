"""The page that says what a teacher costs, from its result alone."""

from __future__ import annotations

from typing import Mapping

from speed.teaching import FULL
from tables import table

WORDS = """# What a teacher costs

Milliseconds of a training step of {student}{cut}, batches of {batch}: from labels, the
forward pass of the full SSD-300 as its teacher, and a step with both, by turns. What is
beyond is the median of what, round by round, a step with both takes beyond the two; no
more than 15 % of what the teacher takes was aimed at. Losses: {losses}.
"""
WHOLE = {"teacher": "the teacher", "labels": "a step from labels"}


def told(ms: Mapping[str, float]) -> str:
    """Return a table of the times, and of what is beyond the teacher."""
    lines = [(name, f"{spent:.0f} ms") for name, spent in ms.items()]
    for part in ("teacher", "labels"):
        share = f"{100 * ms['beyond'] / ms[part]:+.1f} %"
        lines.append((f"beyond the teacher, of what {WHOLE[part]} takes", share))
    return table(("step", "median"), lines)


def page_of(result: Mapping) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    where = f"{hardware['cpu']}, {hardware['threads']} threads; commit "
    how = {key: result[key] for key in ("student", "batch")}
    cut = ", cut by a plan" if result["student"] == FULL else ""
    words = WORDS.format(**how, cut=cut, losses=", ".join(result["losses"]))
    where += f"{result['commit']}, {result['date'][:10]}.\n"
    return "\n".join([words, where, told(result["ms"])])
