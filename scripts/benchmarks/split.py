"""Measures when it pays to split a detector between a device and a server."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np

from benchmarks.shaped_link import Shape, shaped
from benchmarks.split_page import CHART, PAGE, page_of
from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.provenance import ROOT
from gluon_compress.storage.atomic import write_atomically

TEXT = """Measure when it pays to split a detector between a device and a server.

  %(prog)s --images data/bccd/JPEGImages --out docs/benchmark/split
  %(prog)s --images photos --halves runs/split/halves --model runs/split/full/model \\
    --out docs/benchmark/split

Times the whole net, its head and its tail, and the coding of JPEG; says by formula
which way is the fastest at which bandwidth and speed of the device; and checks that by
real runs over a link of this machine whose bandwidth and delay are shaped. Device and
server have one core and one thread each. Without --halves, a bottleneck with random
weights is put into the net: times and bytes are right, detections are not.
"""
MODEL, COMPACT = "ssd_300_resnet50_v1d", "ssd_300_resnet50_v1d_compact_s"
AFTER, AT = "resnetv1d_pool0", "resnetv1d_layers2_relu11"
RUNTIME = "onnxruntime"
CHECKS = (  # kbit/s, round trip in ms, times that the device is slower
    (250, 40, 1),
    (1000, 40, 1),
    (1000, 40, 5),
    (4000, 20, 5),
    (16000, 5, 1),
)
WARM_UP = 2  # images
SENT = {"remote": "jpeg", "shrunk": "shrunk", "split": "tensor"}


@dataclass(frozen=True)
class Folders:
    """What is timed.

    Parameters
    ----------
    whole, compact : Path
        Deployed folders.
    halves : Path
        With ``head`` and ``tail``.
    """

    whole: Path
    compact: Path
    halves: Path


class Slowed:
    """A head or predictor that takes a multiple of its time.

    Parameters
    ----------
    function : callable
    factor : float
        From 1.
    """

    def __init__(self, function: Callable, factor: float) -> None:
        self._function, self._factor = function, factor

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, and wait for the rest of the time."""
        begun = time.perf_counter()
        result = self._function(*arguments)
        time.sleep((self._factor - 1) * (time.perf_counter() - begun))
        return result


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--limit", type=above_0, default=12, help="images; default: 12")
    parser.add_argument("--rounds", type=above_0, default=5, help="default: 5")
    parser.add_argument(
        "--model",
        default=MODEL,
        metavar="MODEL",
        help="a model folder, a released model, or a name for random weights; "
        f"default: {MODEL}",
    )
    parser.add_argument(
        "--compact",
        default=COMPACT,
        metavar="MODEL",
        help=f"a smaller detector for the device, as --model; default: {COMPACT}",
    )
    parser.add_argument("--halves", metavar="DIR", help="that save_halves wrote")
    bottleneck = parser.add_argument_group("a bottleneck with random weights")
    bottleneck.add_argument("--after", default=AFTER, help=f"default: {AFTER}")
    bottleneck.add_argument("--at", default=AT, help=f"default: {AT}")
    bottleneck.add_argument("--channels", type=above_0, default=3, help="default: 3")
    bottleneck.add_argument("--bits", type=above_0, default=8, help="default: 8")
    bottleneck.add_argument("--coding", default="none", help="default: none")
    add_out(parser, "ways", "checks", files=[PAGE, CHART])


def _benchmark(args: argparse.Namespace) -> None:
    """Prepare the folders, time the parts, check the formula, write the page."""
    from benchmarks.runner import readable_images
    from gluon_compress.data.images import read_image

    images = [read_image(path) for path in readable_images(args.images, args.limit)]
    cores = sorted(os.sched_getaffinity(0))
    with TemporaryDirectory() as scratch:
        folders = prepared(args, Path(scratch))
        os.sched_setaffinity(0, {cores[0]})
        parts = timed(folders, images, args.rounds)
        parts["overhead"] = overhead(parts, images, args.rounds, cores[-1])
        checks = [
            check(folders, images, parts, *setting, core=cores[-1])
            for setting in CHECKS
        ]
    result = {
        "model": args.model,
        "compact": args.compact,
        "trained_halves": args.halves is not None,
        "bottleneck": None if args.halves else bottleneck_of(args),
        "images": len(images),
        "rounds": args.rounds,
        "cores": {"device": cores[0], "server": cores[-1]},
        "parts": parts,
        "ways": {name: dict(way) for name, way in ways_of(parts).items()},
        "checks": checks,
    }
    path = write_result(args.out, result)
    write_page(Path(args.out), json.loads(path.read_text(encoding="utf-8")))
    print(path)


def bottleneck_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the bottleneck that is put in."""
    keys = ("after", "at", "channels", "bits", "coding")
    return {key: getattr(args, key) for key in keys}


# ---------------------------------------------------------------- what is timed


def prepared(args: argparse.Namespace, scratch: Path) -> Folders:
    """Write what is timed."""
    from gluon_compress.deployment import deploy
    from gluon_compress.splitting import save_halves

    net = opened(args.model)
    deploy(net, scratch / "whole", formats=["onnx-dynamic"])
    deploy(opened(args.compact), scratch / "compact", formats=["onnx-dynamic"])
    halves = Path(args.halves or scratch / "halves")
    if args.halves is None:
        from gluon_compress.splitting.bottleneck import Bottleneck, with_bottleneck

        settings = Bottleneck(args.after, args.at, args.channels, bits=args.bits)
        net = with_bottleneck(net, settings)
        formats = {"head_formats": ["onnx-dynamic"], "tail_formats": ["onnx-dynamic"]}
        save_halves(net, halves, bits=args.bits, coding=args.coding, **formats)
    return Folders(scratch / "whole", scratch / "compact", halves)


def opened(model: str) -> Any:
    """Return a net: of a model folder, released, or with random weights."""
    import gluon_compress as gc
    from gluon_compress.cli.released import is_released, load_net
    from gluon_compress.models import VOC_CLASSES

    if Path(model).exists():
        return load_net(model)
    if is_released(model) and model in gc.list_models(pretrained=True):
        return load_net(model)
    return gc.get_model(model, classes=VOC_CLASSES)


# ---------------------------------------------------------------- the parts


def timed(
    folders: Folders, images: Sequence[np.ndarray], rounds: int
) -> dict[str, Any]:
    """Return seconds and bytes of every part, medians over images, in turn."""
    from gluon_compress.data.images import decode_image
    from gluon_compress.deployment import Predictor
    from gluon_compress.serving.device import ImageSender, jpeg
    from gluon_compress.serving.frames import Mode, Result, pack_result
    from gluon_compress.serving.frames import overhead as header
    from gluon_compress.splitting import open_head, open_tail

    whole, compact = (
        Predictor(folder, RUNTIME, threads=1)
        for folder in (folders.whole, folders.compact)
    )
    head = open_head(folders.halves / "head", runtime=RUNTIME, threads=1)
    tail = open_tail(folders.halves / "tail", runtime=RUNTIME, threads=1)
    messages = [head.encode(image) for image in images]
    if any(message is None for message in messages):
        raise ValueError("the neural filter drops images; allowed: halves without one")
    files = [jpeg(image, 95) for image in images]
    longest = max(whole.height, whole.width)
    shrinking = ImageSender(95, longest)
    small = [encoded(shrinking, image) for image in images]
    found = [tuple(whole([decode_image(data, "")])[0]) for data in files]
    split_found = tail.detect(messages[:1])
    functions: dict[str, Callable[[int], Any]] = {
        "whole": lambda i: whole([images[i]]),
        "compact": lambda i: compact([images[i]]),
        "head": lambda i: head.encode(images[i]),
        "tail": lambda i: tail.detect([messages[i]]),
        "jpeg": lambda i: jpeg(images[i], 95),
        "decoded_whole": lambda i: whole([decode_image(files[i], "")]),
        "shrunk_jpeg": lambda i: encoded(shrinking, images[i]),
        "decoded_shrunk": lambda i: whole([decode_image(small[i], "")]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for number in range(len(images)):
            for name, function in functions.items():
                begun = time.perf_counter()
                function(number)
                if round_:  # the first warms up
                    seconds[name].append(time.perf_counter() - begun)

    def answer(detections: tuple) -> int:
        return 8 + len(pack_result(Result(0, 0.0, 0.0, detections)))

    axes = len(messages[0].tensor)
    return {
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "bytes": {
            "jpeg": [header(Mode.WHOLE) + len(data) for data in files],
            "shrunk": [header(Mode.WHOLE) + len(data) for data in small],
            "tensor": [header(Mode.SPLIT, axes) + len(m.payload) for m in messages],
            "found": statistics.mean(map(answer, found)),
            "split_found": answer(tuple(split_found[0])),
        },
        "tensor": list(messages[0].tensor),
        "bits": head.bits,
        "longest": longest,
        "size": [int(np.median([image.shape[i] for image in images])) for i in (0, 1)],
    }


def encoded(sender: Any, image: np.ndarray) -> bytes:
    """Return the encoded image that a sender sends."""
    return sender.prepare(image).pack(1, 0)[8:]


def ways_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ways from an image to detections, by name."""
    from gluon_compress.serving.paying import Way

    seconds, sizes = parts["seconds"], parts["bytes"]
    extra = parts["overhead"]
    return {
        "local": Way(name="local", device=seconds["whole"]),
        "remote": Way(
            name="remote",
            device=seconds["jpeg"],
            server=seconds["decoded_whole"] + extra,
            up=statistics.mean(sizes["jpeg"]),
            down=sizes["found"],
        ),
        "shrunk": Way(
            name="remote, shrunk",
            device=seconds["shrunk_jpeg"],
            server=seconds["decoded_shrunk"] + extra,
            up=statistics.mean(sizes["shrunk"]),
            down=sizes["found"],
        ),
        "split": Way(
            name="split",
            device=seconds["head"],
            server=seconds["tail"] + extra,
            up=statistics.mean(sizes["tensor"]),
            down=sizes["split_found"],
        ),
        "compact": Way(name="compact, local", device=seconds["compact"]),
    }


# ---------------------------------------------------------------- real runs


@contextmanager
def server_of(folder: Path, core: int) -> Iterator[int]:
    """Run the command ``serve`` on one core; yield its port."""
    command = [sys.executable, "-W", "ignore", "-m", "gluon_compress", "serve"]
    command += [str(folder), "--port", "0", "--runtime", RUNTIME, "--threads", "1"]
    process = subprocess.Popen(
        [*command, "--max-wait-ms", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            match = re.search(r":(\d+)$", process.stdout.readline().strip())
            if match is None:
                raise ValueError(f"{folder}: the server does not start")
            yield int(match[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def overhead(
    parts: Mapping[str, Any], images: Sequence[np.ndarray], rounds: int, core: int
) -> float:
    """Return the seconds that client and server take besides the nets.

    Measured with halves that do nothing, over an unshaped link of this machine.
    """
    from gluon_compress.serving import Client
    from gluon_compress.serving.frames import SentTensor

    payload = bytes(round(statistics.mean(parts["bytes"]["tensor"])))

    class Nothing:
        pair, bits = "00" * 32, 8

        def encode(self, image: np.ndarray) -> SentTensor:
            return SentTensor(payload, 0.0, 1.0, 1, 1, (1, 1, 1))

    with ExitStack() as stack:
        port = stack.enter_context(_nothing_served(core))
        client = stack.enter_context(Client(f"127.0.0.1:{port}", Nothing()))
        times = [client.detect(images[0]).seconds for _ in range(20 * rounds)]
    return statistics.median(times[WARM_UP:])


@contextmanager
def _nothing_served(core: int) -> Iterator[int]:
    """Run a server whose tail does nothing; yield its port."""
    code = (
        "import numpy as np\n"
        "from gluon_compress.serving.limits import Limits\n"
        "from gluon_compress.serving.running import serve\n"
        "from gluon_compress.serving.served import ServedTail\n"
        "class Tail:\n"
        "    pair, bits, classes, max_payload = '00' * 32, 8, ('a',), 1 << 20\n"
        "    def detect(self, messages):\n"
        "        return [(np.zeros(9, int), np.zeros(9), np.zeros((9, 4)))]\n"
        "serve(ServedTail(Tail()), limits=Limits(batch=1, wait_ms=0),\n"
        "      ready=lambda server, port: print(server.port, flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def check(
    folders: Folders,
    images: Sequence[np.ndarray],
    parts: Mapping[str, Any],
    kbit: float,
    round_trip: float,
    device: float,
    *,
    core: int,
) -> dict[str, Any]:
    """Return measured and expected milliseconds of all ways in one setting."""
    from gluon_compress.deployment import Predictor
    from gluon_compress.serving import Client, Setting, seconds
    from gluon_compress.splitting import open_head

    setting = Setting(1e-3 * round_trip, device=device)
    ways = ways_of(parts)
    local = Slowed(Predictor(folders.whole, RUNTIME, threads=1), device)
    head = open_head(folders.halves / "head", runtime=RUNTIME, threads=1)
    head.encode = Slowed(head.encode, device)  # type: ignore[method-assign]
    row: dict[str, Any] = {"kbit": kbit, "round_trip": round_trip, "device": device}
    again = [*images[:WARM_UP], *images]
    measured = {"local": [_seconds(local, [image]) for image in again][WARM_UP:]}
    for name, half, sends, longest in (
        ("remote", folders.whole, None, None),
        ("shrunk", folders.whole, None, parts["longest"]),
        ("split", folders.halves / "tail", head, None),
    ):
        with ExitStack() as stack:
            port = stack.enter_context(server_of(half, core))
            link = stack.enter_context(shaped(port, Shape(kbit, kbit, round_trip)))
            client = Client(f"127.0.0.1:{link.port}", sends, longest=longest)
            stack.enter_context(client)
            if sends is None:
                sender = client._sender
                sender.prepare = Slowed(sender.prepare, device)
            for image in again:
                answer = client.detect(image)
                if answer.where != "server":
                    raise ValueError(f"{name}: {answer.error or answer.where}")
                measured.setdefault(name, []).append(answer.seconds)
            del measured[name][:WARM_UP]
    for name, times in measured.items():
        way, key = ways[name], SENT.get(name)
        sizes = parts["bytes"][key] if key else [0] * len(images)
        by_formula = [seconds(replace_up(way, size), kbit, setting) for size in sizes]
        row[name] = {
            "ms": 1e3 * statistics.median(times),
            "formula_ms": 1e3 * statistics.median(by_formula),
        }
        row[name]["departs"] = row[name]["ms"] / row[name]["formula_ms"] - 1
    print(json.dumps(row), flush=True)
    return row


def replace_up(way: Any, size: float) -> Any:
    """Return a way with other bytes to the server."""
    return way.replace(up=size) if size else way


def _seconds(function: Callable, *arguments: Any) -> float:
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def write_page(folder: Path, result: Mapping[str, Any]) -> None:
    """Write page and chart of a result."""
    from benchmarks.split_page import DEVICES, ROUND_TRIP, SERVERS
    from gluon_compress.report.paying_charts import paying_chart
    from gluon_compress.serving.paying import Setting, Way

    ways = {name: Way(**content) for name, content in result["ways"].items()}
    others = [ways.pop(name) for name in ("shrunk", "compact")]
    setting = replace(Setting(1e-3 * ROUND_TRIP), server=SERVERS[0])
    paying_chart(
        list(ways.values()),
        folder / CHART,
        setting=setting,
        others=others,
        devices=DEVICES[:3],
    )
    write_atomically(folder / PAGE, page_of(result))


COMMAND = Command(TEXT, _add_options, _benchmark)
