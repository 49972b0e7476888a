"""The page on when it pays to split a detector, from a result alone."""

from __future__ import annotations

import math
import statistics
import textwrap
from typing import Any, Mapping, Sequence

from gluon_compress.markdown import percent, table
from gluon_compress.serving.paying import Setting, Way, break_even, fastest, ranges
from gluon_compress.serving.paying import seconds as seconds_of

PAGE, CHART = "split.md", "split.png"
ROUND_TRIP = 40.0  # ms, of tables and chart
DEVICES = (1, 5, 20, 50)
SERVERS = (1.0, 0.2)
KBITS = (100, 300, 1_000, 3_000, 10_000, 30_000)
ALLOWED = 0.15  # departure of a measured run from the formula
PAIRS = (
    ("split", "local"),
    ("split", "remote"),
    ("split", "shrunk"),
    ("remote", "local"),
)
CHECKED = ("local", "remote", "shrunk", "split")
INTRODUCTION = """# When does it pay to split a detector?

Three ways from an image to its boxes: **local**, the whole net on the device;
**remote**, the image is sent as a JPEG of quality 95 and the server has the whole net;
**split**, the device computes the head and sends a small tensor. `compact` is another
net, `{compact}`, on the device: less accurate, and here for comparison. So is `remote,
shrunk`: images are shrunk to {longest} pixels of the longer side before they become a
JPEG, which the detections depend on a little.

The net is `{model}`, on images of {height} x {width} pixels. {halves} The tensor is
{tensor} with {bits} bits a number.

*Device* and *server* are one core and one thread each of one machine ({cpu}), with ONNX
Runtime. A slower device is simulated: all that it computes takes a multiple of the
time. So is a faster server, in the tables, by formula alone. Links are shaped on this
machine, without losses; headers of TCP and IP, about 3 %, are not counted.
Commit {commit}, {date}.

## The parts

Medians of {rounds} rounds over {images} images.

"""
FORMULA = """
Time of one image: device + bytes up and down / bandwidth + round trip + server. Client
and server themselves take {overhead:.1f} ms of the server's time, measured with halves
that do nothing. `gluon_compress.serving.seconds` is this formula, `break_even` and
`ranges` say where ways meet.

## The fastest way

With a round trip of {trip:g} ms. Times of one image, alone; `local` needs no link.

![Time by bandwidth and device]({chart})

"""
CHECK = """
## Checked

Each row is a real run over the shaped link, image by image, with the programs `serve`
and `Client`; the median, and how far it departs from the formula. Allowed are
{allowed:.0f} %.

"""
IN_SHORT = """
The slower the link, the more a split gains over remote, and local over both. The slower
the device, the more remote gains, for the device only codes a JPEG.
"""
TRAINED = "Head and tail are trained halves."
RANDOM = (
    "Head and tail come from a bottleneck with random weights ({bottleneck}): times "
    "and bytes are those of a trained one, detections are not. If the net has random "
    "weights, too, its NMS may take another time than a trained net's."
)


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown, from the result alone."""
    parts = result["parts"]
    halves = TRAINED
    if not result["trained_halves"]:
        facts = [f"{k} {v}" for k, v in result["bottleneck"].items()]
        halves = RANDOM.format(bottleneck=", ".join(facts))
    height, width = parts["size"]
    text = INTRODUCTION.format(
        model=result["model"],
        compact=result["compact"],
        halves=halves,
        height=height,
        longest=parts["longest"],
        width=width,
        tensor=" x ".join(map(str, parts["tensor"])),
        bits=parts["bits"],
        cpu=result["hardware"]["cpu"],
        commit=result["commit"],
        date=result["date"][:10],
        rounds=result["rounds"],
        images=result["images"],
    )
    facts = {"overhead": 1e3 * parts["overhead"], "trip": ROUND_TRIP, "chart": CHART}
    ways = {name: Way(**content) for name, content in result["ways"].items()}
    pieces = [_wrapped(text), parts_table(ways), FORMULA.format(**facts)]
    shrunk = {"shrunk": ways.pop("shrunk")}
    del ways["compact"]
    for server in SERVERS:
        pieces += [fastest_table(ways, server), ""]
    pieces += [
        answer(ways),
        meetings({**ways, **shrunk}),
        CHECK.format(allowed=100 * ALLOWED),
    ]
    return "\n".join([*pieces, check_table(result["checks"]), verdict(result)])


def _wrapped(text: str) -> str:
    """Return paragraphs with lines of at most 88 characters."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if part.startswith(("#", "!")) else textwrap.fill(part, 88)
        for part in paragraphs
    )


def parts_table(ways: Mapping[str, Way]) -> str:
    """Return what was measured of each way."""
    head = ("way", "device, ms", "server, ms", "bytes up", "bytes down")
    rows = [
        (
            way.name,
            f"{1e3 * way.device:.1f}",
            f"{1e3 * way.server:.1f}" if way.server else "–",
            f"{way.up:,.0f}" if way.up else "–",
            f"{way.down:,.0f}" if way.down else "–",
        )
        for way in ways.values()
    ]
    return table(head, rows)


def fastest_table(ways: Mapping[str, Way], server: float) -> str:
    """Return which way is the fastest, by device and bandwidth."""
    speed = "as measured" if server == 1 else f"{1 / server:g} times as fast"
    head = (f"device; server {speed}", *(f"{kbit / 1000:g} Mbit/s" for kbit in KBITS))
    rows = []
    for device in DEVICES:
        setting = Setting(1e-3 * ROUND_TRIP, device=device, server=server)
        cells = []
        for kbit in KBITS:
            best = fastest(ways.values(), kbit, setting)
            took = 1e3 * seconds_of(best, kbit, setting)
            cells.append(f"{best.name}, {took:.0f} ms")
        rows.append((_slower(device), *cells))
    return table(head, rows)


def answer(ways: Mapping[str, Way]) -> str:
    """Say which way is for whom, and where ways break even."""
    lines = [IN_SHORT, "Which way for whom, by bandwidth, from the formula:", ""]
    for server in SERVERS:
        for device in DEVICES:
            setting = Setting(1e-3 * ROUND_TRIP, device=device, server=server)
            parts = ranges(list(ways.values()), setting)
            said = ", ".join(_part(way, low, high) for way, low, high in parts)
            fast = "" if server == 1 else f", server {1 / server:g} times as fast"
            lines.append(f"- device {_slower(device)}{fast}: {said}.")
    return "\n".join(lines) + "\n"


def meetings(ways: Mapping[str, Way]) -> str:
    """Return where two ways break even, by device."""
    title = "Where two ways take equally long, Mbit/s, with a server as measured:\n\n"
    head = (
        "device",
        *(f"{ways[one].name} and {ways[other].name}" for one, other in PAIRS),
    )
    rows = []
    for device in DEVICES:
        setting = Setting(1e-3 * ROUND_TRIP, device=device)
        meet = [break_even(ways[one], ways[other], setting) for one, other in PAIRS]
        cells = ["never" if kbit is None else _mbit(kbit) for kbit in meet]
        rows.append((_slower(device), *cells))
    return title + table(head, rows)


def _part(way: Way, low: float, high: float) -> str:
    if low == 0 and math.isinf(high):
        return f"{way.name} at any bandwidth"
    if low == 0:
        return f"{way.name} below {_mbit(high)} Mbit/s"
    if math.isinf(high):
        return f"{way.name} above {_mbit(low)} Mbit/s"
    return f"{way.name} from {_mbit(low)} to {_mbit(high)} Mbit/s"


def _mbit(kbit: float) -> str:
    return f"{kbit / 1000:.2g}" if kbit < 100_000 else f"{kbit / 1000:.0f}"


def _slower(device: float) -> str:
    return "as measured" if device == 1 else f"{device:g} times slower"


def check_table(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return measured runs against the formula."""
    names = CHECKED
    head = ("Mbit/s", "round trip, ms", "device", *(f"{n}, ms" for n in names))
    rows = []
    for row in checks:
        cells = [f"{row[n]['ms']:.0f} ({_signed(row[n]['departs'])})" for n in names]
        place = (f"{row['kbit'] / 1000:g}", f"{row['round_trip']:g}")
        rows.append((*place, _slower(row["device"]), *cells))
    return table(head, rows)


def _signed(share: float) -> str:
    return f"{100 * share:+.0f} %"


def verdict(result: Mapping[str, Any]) -> str:
    """Say how well the formula holds, and who was fastest where it was measured."""
    names = CHECKED
    departs = [abs(row[name]["departs"]) for row in result["checks"] for name in names]
    within = sum(each <= ALLOWED for each in departs)
    lines = [
        f"{within} of {len(departs)} runs are within {100 * ALLOWED:.0f} %; the "
        f"largest departure is {percent(max(departs))} %, the median "
        f"{percent(statistics.median(departs))} %."
    ]
    ones = [row for row in result["checks"] if row["kbit"] == 1000]
    for row in ones:
        best = min(names, key=lambda name: row[name]["ms"])
        device = _slower(row["device"])
        lines.append(f"Fastest as measured, 1 Mbit/s, device {device}: {best}.")
    return "\n".join(lines) + "\n"
