"""Tables of what experiments were to show: differences of measured figures."""

from __future__ import annotations

import fnmatch
import statistics
from typing import Mapping, Sequence

from experiments.results import Groups, mean_differences, pairs, signed
from gluon_compress.markdown import table


def aims_table(
    groups: Groups, aims: Sequence[tuple], figures: Mapping[str, str]
) -> list[str]:
    """Return the part of a page that says which aims are met and which are missed.

    Parameters
    ----------
    groups : mapping
        Of ``results.by_net``.
    aims : sequence of tuple
        (experiment, other, least difference in points); 0 stands for any above it.
        Those of experiments that are not in the set are left out.
    figures : mapping
        Keys of results by what the page calls them: the first is judged, the others are
        shown beside it.

    A difference is the mean over the seeds that both experiments have.
    """
    rows = []
    for net, other, least in aims:
        if {net, other} <= set(groups):
            complete, missing = pairs(groups[net], groups[other])
            judged = next(iter(figures.values()))
            differences = [100 * (a[judged] - b[judged]) for a, b in complete]
            verdict = _verdict(differences, least)
            verdict += ", so far" if complete and missing else ""
            first, *more = map(signed, mean_differences(complete, figures.values()))
            aim = f"at least {least:+.1f}" if least else "above 0"
            pair = f"{net} − {other}"
            rows.append([pair, aim, first, str(len(complete)), verdict, *more])
    judged, *others = figures
    head = (f"difference of {judged}", "aim, points", "measured", "seeds", "met")
    return ["## Aims\n", table((*head, *others), rows)] if rows else []


def _verdict(differences: Sequence[float], least: float) -> str:
    """Say whether the mean over the seeds reaches an aim, and how many of them do."""

    def reached(difference: float) -> bool:
        return difference >= least if least else difference > 0

    if not differences:
        return "not run yet"
    verdict, count = reached(statistics.mean(differences)), len(differences)
    agree = sum(reached(difference) == verdict for difference in differences)
    by = "one seed" if count == 1 else f"{agree} of {count} seeds"
    return ("yes" if verdict else "no") + ("" if agree == count > 1 else f", by {by}")


def gains_table(
    groups: Groups, bases: Mapping[str, str], figures: Mapping[str, str]
) -> list[str]:
    """Return the part of a page that says what each net gains over another.

    ``bases`` are patterns of names, and the net that those which fit are compared with,
    seed by seed as in ``aims_table``.
    """
    rows = []
    for pattern, base in bases.items():
        for net in fnmatch.filter(groups if base in groups else (), pattern):
            complete, _ = pairs(groups[net], groups[base])
            if net != base and complete:
                means = map(signed, mean_differences(complete, figures.values()))
                rows.append([net, base, str(len(complete)), *means])
    judged, *others = figures
    head = ("net", "compared with", "seeds", f"points of {judged}", *others)
    return ["## Gains\n", table(head, rows)] if rows else []
