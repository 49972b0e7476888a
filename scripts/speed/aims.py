"""What the benchmark is to show, as ratios of what was measured in one run."""

from __future__ import annotations

from typing import Iterator, Mapping, Sequence

from tables import table

# Net, another one, precision, runtimes, and the most it may take of the other's time.
FASTER = (
    ("compact_s", "lite", "float32", ("onnxruntime", "openvino"), 0.85),
    ("compact_s", "lite", "float32", ("mxnet", "ncnn"), 1.0),
    ("compact_s", "lite", "int8", ("mxnet", "onnxruntime", "openvino"), 1.0),
)
GAIN_BEST, GAIN_EACH = 0.95, 0.85  # share of the MACs' ratio that becomes time
SHARE_BEST, BOXES = 0.8, 1.15  # of a plain convolution's speed; times the head graph


def aims(rows: Sequence[Mapping], ways: Sequence[Mapping]) -> str:
    """Return a table of what was aimed at and measured, "" where nothing was."""
    at = {(r["net"], r["runtime"], r["precision"]): r for r in rows if plain(r)}
    lines = (*_faster(at), *_gains(at), *_shares(at), *_boxes(ways))
    found = [[*line[:3], "yes" if line[3] else "no"] for line in lines]
    return table(("what", "aim", "measured", "met"), found) if found else ""


def plain(row: Mapping) -> bool:
    """Return whether a row is of one image on two threads, which aims are for."""
    return (row["threads"], row["batch"]) == (2, 1)


def _faster(at: Mapping) -> list:
    lines = []
    for net, other, precision, runtimes, most in FASTER:
        for runtime in runtimes:
            own, its = (at.get((name, runtime, precision)) for name in (net, other))
            if own and its:
                ratio = own["ms"] / its["ms"]
                what = f"{net} / {other}, time, {runtime} {precision}"
                lines.append((what, f"≤ {most:.2f}", f"{ratio:.2f}", ratio <= most))
    return lines


def _gains(at: Mapping) -> list:
    gains = {}
    for (net, runtime, precision), row in at.items():
        full = at.get(("full", runtime, precision))
        if net == "compact" and precision == "float32" and full:
            ratio = full["macs"] / row["macs"]
            gains[runtime] = full["ms"] / row["ms"] / ratio
    best = max(gains, key=gains.get, default="")
    return [
        (
            f"full / compact, time over MACs, {runtime}",
            f"≥ {GAIN_BEST if runtime == best else GAIN_EACH:.2f}",
            f"{gain:.2f}",
            gain >= (GAIN_BEST if runtime == best else GAIN_EACH),
        )
        for runtime, gain in gains.items()
    ]


def _shares(at: Mapping) -> list:
    shares = {
        runtime: row["share_of_conv"]
        for (net, runtime, precision), row in at.items()
        if (net, precision) == ("compact", "float32")
    }
    if not shares:
        return []
    name, share = max(shares.items(), key=lambda pair: pair[1])
    what, aim = f"compact, speed of a plain convolution, {name}", f"≥ {SHARE_BEST:.2f}"
    return [(what, aim, f"{share:.2f}", share >= SHARE_BEST)]


def _boxes(ways: Sequence[Mapping]) -> Iterator[tuple]:
    for row in ways:
        ratio = row["ms"]["boxes"] / row["ms"]["head"]
        what = f"{row['net']}, boxes / head, {row['runtime']} {row['precision']}"
        yield what, f"≤ {BOXES:.2f}", f"{ratio:.2f}", ratio <= BOXES
