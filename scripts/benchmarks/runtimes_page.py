"""Makes the page and the plot of a benchmark of runtimes, from its result alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from benchmarks.nets import CONV
from benchmarks.worker import WAYS
from gluon_compress.markdown import overlap, table

Row = Mapping[str, Any]
At = Mapping[tuple, Row]  # rows of one image on two threads: net, runtime, precision

INTRODUCTION = """# Benchmark

Head graphs of SSD-300 for 20 classes, without decoding and NMS:

- `full`: on ResNet50-v1d;
- `compact`, `compact_s` and `compact_ms`: pruned by the plans in `model_zoo/`;
- `mobilenet`: on the same six maps;
- `lite`: the classic MobileNet-SSD;
- SSD on GluonCV's own pruned ResNets.

A trained detector, with its own classes, has the name of its folder. The other nets
have initial weights, which do not affect times. Nets take turns in blocks (A B A B);
times are medians, of CPU time if there is one thread. A ratio with the mark `≈` does
not tell which net is faster: the quartiles of the two times overlap. *Of the
convolution* is the speed as a share of a chain of plain 3x3 convolutions in the same
run. Memory is what a process needs beyond the runtime itself.
"""
HEAD = (
    *("net", "ms", "quartiles", "images/s", "GFLOP/s", "of the convolution"),
    *("memory, MB", "files, MB"),
)
PAIRS = (
    ("compact_ms", "lite"),
    ("compact_s", "lite"),
    ("compact_s", "mobilenet"),
    ("compact", "lite"),
    ("full", "compact"),
)
INT8 = ("mxnet", "onnxruntime", "openvino")  # that quantise any net
# Net, another one, precision, runtimes, and the most it may take of the other's time.
# With two threads; compact_ms, with any.
FASTER = (
    (
        "compact_ms",
        "lite",
        "float32",
        ("onnxruntime", "openvino", "mxnet", "ncnn"),
        0.85,
    ),
    ("compact_ms", "lite", "int8", ("onnxruntime", "openvino", "mxnet"), 0.85),
    ("compact_s", "lite", "float32", ("onnxruntime", "openvino"), 0.85),
    ("compact_s", "lite", "float32", ("mxnet", "ncnn"), 1.0),
    ("compact_s", "lite", "int8", INT8, 1.0),
)
GAIN_BEST, GAIN_EACH = 0.95, 0.85  # share of the MACs' ratio that becomes time
SHARE_BEST, BOXES = 0.8, 1.15  # of a plain convolution's speed; times the head graph


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    rows, ways = result["rows"], result["ways"]
    hardware = result["hardware"]
    cores = hardware["cores"]
    machine = f"{hardware['cpu']}, {cores} core{'s' * (cores > 1)}"
    source = f"{machine}; commit {result['commit']}, {result['date'][:10]}.\n"
    parts = [INTRODUCTION, source]
    aims = aims_table(rows, ways)
    if aims:
        parts += ["## Aims\n", aims]
    nets = {row["net"] for row in rows}
    pairs = [pair for pair in PAIRS if set(pair) <= nets]
    if pairs:
        parts += ["## Time ratios\n", ratios(rows, pairs)]
    if ways:
        parts.append("## From an image to its boxes\n\nMilliseconds per image:\n")
        parts += [f"- `{name}`: {what}" for name, what in WAYS.items()]
        parts += ["", table_of_ways(ways)]
    return "\n".join([*parts, tables_of(rows)])


# ---------------------------------------------------------------- aims


def aims_table(rows: Sequence[Row], ways: Sequence[Row]) -> str:
    """Return a table of aims and measured values, "" without any."""
    by_threads = {
        count: {
            (row["net"], row["runtime"], row["precision"]): row
            for row in rows
            if (row["threads"], row["batch"]) == (count, 1)
        }
        for count in sorted({row["threads"] for row in rows} | {2})
    }
    at = by_threads[2]
    faster = [
        aim for count, found in by_threads.items() for aim in _faster(found, count)
    ]
    aims = (*faster, *_gains(at), *_shares(at), *_boxes(ways))
    lines = [[*aim[:3], "yes" if aim[3] else "no"] for aim in aims]
    return table(("measure", "aim", "measured", "met"), lines) if lines else ""


def _faster(at: At, threads: int) -> Iterator[tuple]:
    for net, other, precision, runtimes, most in FASTER:
        if threads != 2 and net != "compact_ms":
            continue
        for runtime in runtimes:
            rows = [at.get((name, runtime, precision)) for name in (net, other)]
            if all(rows):
                ratio = rows[0]["ms"] / rows[1]["ms"]
                what = f"{net} / {other}, time, {runtime} {precision}"
                what += "" if threads == 2 else f", {_threads(threads)}"
                yield what, f"≤ {most:.2f}", _ratio(rows), ratio <= most


def _gains(at: At) -> Iterator[tuple]:
    gains = {}
    for (net, runtime, precision), row in at.items():
        full = at.get(("full", runtime, precision))
        if net == "compact" and precision == "float32" and full:
            ratio = full["macs"] / row["macs"]
            gains[runtime] = full["ms"] / row["ms"] / ratio
    best = max(gains, key=gains.__getitem__, default="")
    for runtime, gain in gains.items():
        least = GAIN_BEST if runtime == best else GAIN_EACH
        what = f"full / compact, time over MACs, {runtime}"
        yield what, f"≥ {least:.2f}", f"{gain:.2f}", gain >= least


def _shares(at: At) -> Iterator[tuple]:
    shares = {
        runtime: row["share_of_conv"]
        for (net, runtime, precision), row in at.items()
        if (net, precision) == ("compact", "float32")
    }
    if shares:
        name = max(shares, key=shares.__getitem__)
        what = f"compact, speed of a plain convolution, {name}"
        share = shares[name]
        yield what, f"≥ {SHARE_BEST:.2f}", f"{share:.2f}", share >= SHARE_BEST


def _boxes(ways: Sequence[Row]) -> Iterator[tuple]:
    for row in ways:
        ratio = row["ms"]["boxes"] / row["ms"]["head"]
        what = f"{row['net']}, boxes / head, {row['runtime']} {row['precision']}"
        yield what, f"≤ {BOXES:.2f}", _ratio_of_ways(row), ratio <= BOXES


# ---------------------------------------------------------------- tables


def tables_of(rows: Sequence[Row]) -> str:
    """Return one table for each setting, as Markdown."""
    parts = []
    for setting, chosen in _by_setting(rows).items():
        parts += [f"## {setting}\n", table(HEAD, map(_cells, chosen))]
    return "\n".join(parts)


def ratios(rows: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> str:
    """Return for each setting how long nets take, over how long others take."""
    lines = []
    for setting, chosen in _by_setting(rows).items():
        row_of = {row["net"]: row for row in chosen}
        compared = [[row_of[n] for n in pair if n in row_of] for pair in pairs]
        cells = [_ratio(rows) if len(rows) == 2 else "" for rows in compared]
        lines.append([setting, *cells])
    return table(("setting", *(f"{a} / {b}" for a, b in pairs)), lines)


def _ratio(rows: Sequence[Row]) -> str:
    """Return the ratio of two times, with a mark where it may be chance."""
    one, other = rows
    mark = "≈ " if overlap(one["ms_quartiles"], other["ms_quartiles"]) else ""
    return f"{mark}{one['ms'] / other['ms']:.2f}"


def _ratio_of_ways(row: Row) -> str:
    """Return how long boxes take over the head alone, as ``_ratio`` does."""
    ms, quartiles = row["ms"], row.get("ms_quartiles")
    if quartiles is None:  # earlier results have medians alone
        return f"{ms['boxes'] / ms['head']:.2f}"
    ways = ("boxes", "head")
    return _ratio([{"ms": ms[w], "ms_quartiles": quartiles[w]} for w in ways])


def table_of_ways(ways: Sequence[Row]) -> str:
    """Return milliseconds an image of every way from an image to boxes."""
    head = ("net", "runtime", "precision", *WAYS, "boxes / head")
    lines = []
    for row in ways:
        ms = row["ms"]
        times = [f"{ms[way]:.1f}" for way in WAYS]
        cells = [row["net"], row["runtime"], row["precision"], *times]
        lines.append([*cells, _ratio_of_ways(row)])
    return table(head, lines)


def _by_setting(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(setting_of(row), []).append(row)
    return groups


def setting_of(row: Row) -> str:
    """Return what a row was measured in, in words."""
    threads, batch = _threads(row["threads"]), row["batch"]
    return f"{row['runtime']}, {row['precision']}, {threads}, batch {batch}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _cells(row: Row) -> list[str]:
    low, high = row["ms_quartiles"]
    is_best = row["net"] == CONV
    return [
        row["net"],
        f"{row['ms']:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{row['images_per_second']:.1f}",
        f"{row['gflops']:.0f}",
        "" if is_best else f"{100 * row['share_of_conv']:.0f} %",
        *(f"{row[key] / 1e6:.1f}" if row[key] else "–" for key in ("memory", "bytes")),
    ]


# ---------------------------------------------------------------- the plot


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw one panel a setting, one bar a net, with the quartiles as whiskers."""
    import matplotlib
    from matplotlib.figure import Figure

    from gluon_compress.report.charts import KEPT, STYLE, save_figure

    groups = _by_setting([row for row in rows if row["net"] != CONV])
    with matplotlib.rc_context(STYLE):
        columns = min(len(groups), 3)
        lines = -(-len(groups) // columns)
        figure = Figure(
            figsize=(1.8 + 3.2 * columns, 2.8 * lines), layout="constrained"
        )
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flat
        for axes in panels[len(groups) :]:
            axes.remove()
        for (setting, chosen), axes in zip(groups.items(), panels):
            middle = [row["ms"] for row in chosen]
            ends = zip(*(row["ms_quartiles"] for row in chosen))
            spread = [[abs(a - b) for a, b in zip(middle, end)] for end in ends]
            names = [row["net"] for row in chosen]
            axes.barh(names, middle, color=KEPT, xerr=spread, ecolor="#555555")
            axes.set_title(setting, fontsize=8)
            axes.set_xlabel("ms")
            axes.grid(False, axis="y")
        panels[0].invert_yaxis()  # of all panels
        save_figure(figure, path)
