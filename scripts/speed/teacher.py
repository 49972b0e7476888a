"""The page that says what a teacher costs, from its result alone."""

from __future__ import annotations

from typing import Mapping, Sequence

from speed.teaching import FULL
from tables import table

MOST = 15  # per cent of the teacher's forward pass, beyond it
WORDS = """# What a teacher costs

Milliseconds of a training step of {student}{cut}, batches of {batch}: from labels, the
forward pass of the full SSD-300 as its teacher, and a step with both, by turns. What is
beyond is the median of what, round by round, a step with both takes beyond the two; no
more than {most} % of what the teacher takes was aimed at. The cells of large maps are
compared with a stride of {stride}.
"""
HEAD = ("losses", "labels", "teacher", "both", "beyond")
HEAD += ("of the teacher", "met", "of a step from labels")


def told(sets: Sequence[Mapping]) -> str:
    """Return a table of the times, and of what is beyond the teacher."""
    return table(HEAD, [_row(each["losses"], each["ms"]) for each in sets])


def _row(losses: Sequence[str], ms: Mapping[str, float]) -> list[str]:
    shares = {part: 100 * ms["beyond"] / ms[part] for part in ("teacher", "labels")}
    met = "yes" if shares["teacher"] <= MOST else "no"
    times = [f"{ms[name]:.0f} ms" for name in HEAD[1:5]]
    of_teacher, of_labels = (f"{share:+.1f} %" for share in shares.values())
    return [", ".join(losses), *times, of_teacher, met, of_labels]


def page_of(result: Mapping) -> str:
    """Return the page as Markdown, from the result alone."""
    hardware = result["hardware"]
    where = f"{hardware['cpu']}, {hardware['threads']} threads; commit "
    how = {key: result[key] for key in ("student", "batch", "stride")}
    cut = ", cut by a plan" if result["student"] == FULL else ""
    words = WORDS.format(**how, cut=cut, most=MOST)
    where += f"{result['commit']}, {result['date'][:10]}.\n"
    return "\n".join([words, where, told(result["sets"])])
