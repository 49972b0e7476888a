"""The experiments that compare policies, and their page, from a result alone."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from gluon_compress.markdown import table

PAGE = "policies.md"
REPAIRS = ("recalibrated", "reconstructed")
AGENT, LEAST_OF_AGENT = "amc", 0.3  # points that the agent may be behind greedy
GREEDY = ("greedy", "greedy_measured")
BY_HAND = ("uniform", "shallow_more", "deep_more")
SEEDS = {AGENT: (0, 1, 2)}
SEARCHES = ("random_search", "legr", AGENT)
POLICIES = (*BY_HAND, *GREEDY, *SEARCHES)
MISSING = "not run yet"
HEAD = ("policy", *REPAIRS, "score in its search", "greedy's", "episodes")
HEAD += ("CPU seconds to plan",)
INTRODUCTION = """# Which policy, at which cost in time?

Nets are cut to a budget by each policy, and repaired without training: *recalibrated*
has BatchNorm statistics measured again, *reconstructed* has weights fitted to the full
net (`gc.reconstruct`). Accuracy is that of validation images, in per cent. Searches
score their plans on training images that nothing else uses, repaired in the same way,
at equal numbers of episodes. Channels are chosen by `l1`.

- `uniform`: the same share everywhere. `shallow_more`, `deep_more`: by hand; shares
  rise or fall linearly with depth, so that shallow or deep layers are pruned more.
- `greedy`: what is missed least for what it saves. `greedy_measured`: the same with
  output sensitivities (`gc.effects`) as weights.
- `random_search`; `legr`, an evolution of rankings; `amc`, the agent that learns.

The score in its search is that of the plan it settled on; beside it the score that
`greedy` has there, and how many episodes had how many images of how many pixels. Where
both are close to that of chance, a search has little to follow.

Seconds are CPU seconds of one thread from the net to the plan. What the scores of a
search need once for a net, such as images in memory and the covariances of its layers,
is not in them; output sensitivities are.
"""
AIMS = {"reconstructed": {0.7: 0.75, 0.5: 0.55}}  # share of MACs to accuracy


class Row(NamedTuple):
    """One figure of an experiment.

    Parameters
    ----------
    share : float
        Of what the full net costs.
    repair : str
        One of ``REPAIRS``.
    policy : str
    seed : int
    """

    share: float
    repair: str
    policy: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in a result."""
        return f"{self.share:g}-{self.repair}-{self.policy}-{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """What is compared on one net.

    Parameters
    ----------
    title : str
    about : str
        The net and its images.
    shares : tuple of float
        Budgets, of what the full net costs.
    limit : str
        The cost that is limited, a name of ``Budget``.
    detector : bool
        Whether accuracy is mAP.
    multiple : int
        Widths are multiples of it.
    aims : mapping
        Repair to share of the budget to the least accuracy that was hoped for.
    """

    title: str
    about: str
    shares: tuple
    limit: str = "macs"
    detector: bool = False
    multiple: int = 8
    aims: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Return all rows, those of the shortest searches first."""
        return [
            Row(part, repair, policy, seed)
            for policy in POLICIES
            for part in self.shares
            for repair in reversed(REPAIRS)
            for seed in SEEDS.get(policy, (0,))
        ]


EXPERIMENTS = {
    "mobilenet": Experiment(
        "MobileNet1.0 by MACs",
        "MobileNet1.0 with features learnt on ImageNet, Imagenette",
        (0.7, 0.5),
        aims=AIMS,
    ),
    "mobilenet_ms": Experiment(
        "MobileNet1.0 by milliseconds",
        "the same net; milliseconds by a latency table of ONNX Runtime",
        (0.55,),
        limit="latency_ms",
    ),
    "detector": Experiment(
        "SSD-300 by MACs, with mAP as the reward",
        "SSD-300 on MobileNet1.0, trained on BCCD; mAP",
        (0.5,),
        detector=True,
    ),
    "vgg16": Experiment(
        "VGG-16 at a quarter of its MACs",
        "`vgg16_bn`, trained on Imagenette",
        (0.25,),
    ),
}


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    parts = [INTRODUCTION]
    for name, experiment in EXPERIMENTS.items():
        known = result["experiments"].get(name)
        parts.append(f"## {experiment.title}\n")
        if known is None:
            parts.append(f"{experiment.about}: {MISSING}.\n")
            continue
        parts.append(_facts(experiment, known))
        for part in experiment.shares:
            parts.append(_section(experiment, part, known["rows"].values()))
    return "\n".join(parts)


def _facts(experiment: Experiment, known: Mapping[str, Any]) -> str:
    rows = known["rows"].values()
    commits = dict.fromkeys(row["commit"][:12] for row in rows)
    processors = dict.fromkeys(row["cpu"] for row in rows)
    pixels = "" if experiment.detector else f" at {known['size']} pixels"
    return (
        f"{experiment.about}; `{known['model']}`: {100 * known['full']:.1f} on "
        f"{known['images']} images{pixels}. Nets are repaired on {known['fit']} "
        f"images, {known['points']} places each. Widths are multiples of "
        f"{experiment.multiple}. {', '.join(processors)}; "
        f"commit {', '.join(commits)}.\n"
    )


def _section(experiment: Experiment, part: float, rows: Iterable[Mapping]) -> str:
    """Return the table of one budget, and what it says about aims and choice."""
    measured = [row for row in rows if row["share"] == part]
    lines = []
    for policy in POLICIES:
        for seed in SEEDS.get(policy, (0,)):
            found = {
                row["repair"]: row
                for row in measured
                if (row["policy"], row["seed"]) == (policy, seed)
            }
            name = f"{policy}, seed {seed}" if policy in SEEDS else policy
            lines.append([name, *_cells(found)])
    limit = {"macs": "MACs", "latency_ms": "milliseconds"}[experiment.limit]
    text = [f"### {100 * part:.0f} % of its {limit}\n", table(HEAD, lines)]
    verdicts = [*_aims(experiment, part, measured), *_choice(measured)]
    return "\n".join([*text, *(f"- {verdict}" for verdict in verdicts), ""])


def _cells(found: Mapping[str, Mapping]) -> list[str]:
    figures = [
        f"{100 * found[repair]['accuracy']:.1f}" if repair in found else MISSING
        for repair in REPAIRS
    ]
    best = found.get("reconstructed") or found.get("recalibrated")
    if best is None:
        return [*figures, "–", "–", "–", "–"]
    search = ["–", "–", "–"]
    if best["score"] is not None:
        images = f"{best['tried']} × {best['sample']} at {best['search_size']}"
        scores = [f"{100 * best[k]:.1f}" for k in ("score", "reference_score")]
        search = [*scores, images]
    return [*figures, *search, f"{best['plan_seconds']:.0f}"]


def _aims(
    experiment: Experiment, part: float, measured: Sequence[Mapping]
) -> list[str]:
    """Return a line for each aim: met, missed or open."""
    lines = []
    for repair, aims in experiment.aims.items():
        if part in aims:
            best = _best(measured, repair, POLICIES)
            text = f"Aim: at least {100 * aims[part]:.0f} when {repair}"
            if best is None:
                lines.append(f"{text}: {MISSING}.")
            else:
                verdict = "met" if best["accuracy"] >= aims[part] else "missed"
                accuracy = 100 * best["accuracy"]
                lines.append(
                    f"{text}: **{verdict}**, {accuracy:.1f} by `{best['policy']}`."
                )
    for repair in reversed(REPAIRS):
        agents = _accuracies(measured, repair, AGENT)
        greedy = _best(measured, repair, GREEDY)
        text = f"Aim: the agent at most {LEAST_OF_AGENT} points behind greedy, {repair}"
        if len(agents) < len(SEEDS[AGENT]) or greedy is None:
            lines.append(f"{text}: {MISSING}.")
            continue
        gap = 100 * (statistics.mean(agents) - greedy["accuracy"])
        verdict = "met" if gap >= -LEAST_OF_AGENT else "missed"
        lines.append(
            f"{text}: **{verdict}**, {gap:+.1f} points (mean of {len(agents)} seeds, "
            f"{100 * min(agents):.1f} to {100 * max(agents):.1f}; "
            f"`{greedy['policy']}` {100 * greedy['accuracy']:.1f})."
        )
    return lines


def _choice(measured: Sequence[Mapping]) -> list[str]:
    """Return which policy to take, from what was reconstructed."""
    free = _best(measured, "reconstructed", (*BY_HAND, *GREEDY))
    search = _best(measured, "reconstructed", SEARCHES)
    if free is None or search is None:
        return []
    gap = 100 * (search["accuracy"] - free["accuracy"])
    cost = f"{search['plan_seconds']:.0f} CPU seconds and {search['tried']} episodes"
    name = f"`{search['policy']}`"
    if gap <= 0:
        return [
            f"Take `{free['policy']}` and reconstruct: the best search, {name}, is "
            f"{-gap:.1f} points worse after {cost}."
        ]
    return [
        f"The best search, {name}, gains {gap:.1f} points over `{free['policy']}`, for "
        f"{cost}."
    ]


def _best(
    measured: Sequence[Mapping], repair: str, policies: Sequence[str]
) -> Mapping | None:
    fitting = [r for r in measured if r["repair"] == repair and r["policy"] in policies]
    return max(fitting, key=lambda row: row["accuracy"], default=None)


def _accuracies(measured: Sequence[Mapping], repair: str, policy: str) -> list[float]:
    return [
        row["accuracy"]
        for row in measured
        if row["repair"] == repair and row["policy"] == policy
    ]
