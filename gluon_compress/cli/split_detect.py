"""Detects on images with the help of a server: split, or with whole images."""

from __future__ import annotations

import argparse
import json
from collections import Counter, deque
from pathlib import Path
from typing import Any, Deque, Iterator, Tuple

from gluon_compress.cli.app import Command
from gluon_compress.cli.detect import LIST, refuse_other_list, width_of
from gluon_compress.cli.image_files import images_of, pictures, without
from gluon_compress.cli.options import above_0, folder, share
from gluon_compress.cli.video import positive
from gluon_compress.printable import printable

SPLIT_TEXT = """Detect on images: the head of a split net here, its tail on a server.

  %(prog)s split/head photos/ --server 10.0.0.2:7000 --out found
  %(prog)s split/head photos/ --server 10.0.0.2:7000 --out - \\
    --deadline-ms 300 --fallback edge

The server runs gluon-compress serve with the tail. Each line says where an image was
computed: on the server, on the device (with --fallback, where the server is away or too
slow), or not at all, because the neural filter found it empty. Images keep their order,
also when the server restarts meanwhile.
"""
REMOTE_TEXT = """Detect on images: they are sent to a server that has the whole net.

  %(prog)s photos/ --server 10.0.0.2:7001 --out found
  %(prog)s photos/ --server 10.0.0.2:7001 --longest 512 --out -

The server runs gluon-compress serve with a deployed detector. JPEG files are sent as
they are, unless --longest or --quality asks for others.
"""
STANDARD_OUTPUT = ""  # in place of a path
GIGABIT = 1e6  # kbit/s
JPEG = b"\xff\xd8\xff"


def place(text: str) -> str:
    """Return a folder; ``-`` is empty."""
    return STANDARD_OUTPUT if text == "-" else folder(text)


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("head", metavar="HEAD", help="folder of the head")
    _add_options(parser)


def _add_remote_options(parser: argparse.ArgumentParser) -> None:
    _add_options(parser)
    parser.add_argument(
        "--longest",
        type=above_0,
        metavar="PIXELS",
        help="shrink images to so many pixels of the longer side before",
    )
    parser.add_argument(
        "--quality", type=above_0, metavar="N", help="of JPEG; default: 95"
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--out",
        type=place,
        required=True,
        metavar="DIR",
        help=f"for pictures and {LIST}; -: JSON lines on standard output",
    )
    parser.add_argument(
        "--threshold", type=share, default=0.5, help="lowest score; default: 0.5"
    )
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        metavar="NAME",
        help="of what runs here; default: onnxruntime",
    )
    parser.add_argument(
        "--threads", type=above_0, metavar="N", help="of what runs here"
    )
    parser.add_argument(
        "--in-flight", type=above_0, default=4, metavar="N", help="images; default: 4"
    )
    parser.add_argument("--token-file", metavar="FILE", help="that the server has")
    parser.add_argument(
        "--tls",
        action="store_true",
        help="TLS, with authorities that the system has",
    )
    parser.add_argument(
        "--tls-ca", metavar="PEM", help="TLS, with this authority or certificate"
    )
    waiting = parser.add_argument_group("slow links and servers that are away")
    waiting.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help="that an image may take"
    )
    waiting.add_argument(
        "--fallback",
        metavar="FOLDER",
        help="deployed detector that runs here where the server is away or too slow",
    )
    waiting.add_argument(
        "--min-kbit",
        type=positive,
        metavar="N",
        help="with --fallback: a link of less is not used",
    )
    waiting.add_argument(
        "--patience",
        type=positive,
        default=10.0,
        metavar="S",
        help="seconds until a server that is away is given up; default: 10",
    )


def _split(args: argparse.Namespace) -> None:
    """Detect with a head."""
    from gluon_compress.splitting.halves import open_head

    _check(args)
    head = open_head(args.head, runtime=args.runtime, threads=args.threads)
    _detect(args, head, {})


def _remote(args: argparse.Namespace) -> None:
    """Detect with whole images."""
    _check(args)
    if args.quality is not None and args.quality > 100:
        raise ValueError(f"--quality {args.quality}; allowed: 1 to 100")
    options = {"quality": args.quality or 95, "longest": args.longest}
    _detect(args, None, options)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    from gluon_compress.serving.client import split_address

    split_address(args.server)
    if args.min_kbit is not None and args.fallback is None:
        raise ValueError(f"--min-kbit {args.min_kbit:g}: only with --fallback")


def _detect(args: argparse.Namespace, head: Any, options: dict[str, Any]) -> None:
    from gluon_compress.data.images import EXTENSIONS
    from gluon_compress.serving import Client, client_tls, read_token
    from gluon_compress.storage.atomic import write_json

    writes_files = args.out != STANDARD_OUTPUT
    if writes_files:
        targets = pictures(args.images, Path(args.out), EXTENSIONS)
        refuse_other_list(Path(args.out) / LIST)
    else:
        targets = dict.fromkeys(images_of(args.images, EXTENSIONS), Path())
    tls = client_tls(args.tls_ca) if args.tls or args.tls_ca else None
    client = Client(
        args.server,
        head,
        fallback=_fallback(args),
        deadline=None if args.deadline_ms is None else 1e-3 * args.deadline_ms,
        min_kbit=args.min_kbit,
        patience=args.patience,
        threshold=args.threshold,
        token=read_token(args.token_file) if args.token_file else None,
        tls=tls,
        in_flight=args.in_flight,
        **options,
    )
    run = _Run(args, client, targets, as_files=head is None and _as_they_are(args))
    with client:
        try:
            run.all()
        finally:
            if writes_files and (run.rows or run.skipped):
                write_json(Path(args.out) / LIST, run.content())
    if writes_files:
        print(run.summary())
    if not run.rows:
        raise ValueError(f"none of the {len(targets)} images has a result")


def _as_they_are(args: argparse.Namespace) -> bool:
    return args.longest is None and args.quality is None


def _fallback(args: argparse.Namespace) -> Any:
    if args.fallback is None:
        return None
    from gluon_compress.deployment.predictor import Predictor

    return Predictor(args.fallback, args.runtime, threads=args.threads)


class _Run:
    """Goes through the images, and keeps what came of each."""

    def __init__(
        self,
        args: argparse.Namespace,
        client: Any,
        targets: dict[Path, Path],
        *,
        as_files: bool,
    ) -> None:
        self._args, self._client, self._targets = args, client, targets
        self._as_files, self._draws = as_files, args.out != STANDARD_OUTPUT
        self._waiting: Deque[Tuple[Path, Any]] = deque()
        self.rows: list[dict[str, Any]] = []
        self.skipped: list[dict[str, str]] = []
        self._places: Counter = Counter()

    def all(self) -> None:
        """Detect on all images."""
        for answer in self._client.stream(self._images()):
            path, image = self._waiting.popleft()
            if answer.error:
                self._skip(path, answer.error)
            else:
                self._keep(path, image, answer)

    def _images(self) -> Iterator[Any]:
        """Yield images that can be read; remember them until they are answered."""
        from gluon_compress.data.images import read_image

        for path in self._targets:
            try:
                image: Any = read_image(path)
                data = path.read_bytes() if self._as_files else b""
                if data.startswith(JPEG):
                    image = data
            except ValueError as error:
                self._skip(path, str(error))
                continue
            self._waiting.append((path, image))
            yield image

    def _skip(self, path: Path, reason: str) -> None:
        reason = without(path, reason)
        self.skipped.append({"file": str(path), "reason": reason})
        row = {"file": str(path), "error": reason}
        self._say(row, f"skipped {path}: {reason}")

    def _keep(self, path: Path, image: Any, answer: Any) -> None:
        from gluon_compress import report

        ids, scores, corner_boxes = answer.detections
        boxes = report.Boxes(corner_boxes, ids, scores)
        self._places[answer.where] += 1
        row = {
            "file": str(path),
            "detections": boxes.records(self._client.classes),
            "computed": answer.where,
            "reason": answer.reason,
            "bytes_sent": answer.sent,
            "ms": round(1e3 * answer.seconds, 1),
        }
        self.rows.append(row)
        reason = f" ({answer.reason})" if answer.reason else ""
        facts = (
            f"{len(boxes)} objects, {answer.where}{reason}, {answer.sent} bytes sent"
        )
        self._say(row, f"{path}: {facts}, {1e3 * answer.seconds:.0f} ms")
        if self._draws:
            from gluon_compress.serving.device import as_array

            pixels = as_array(image)
            width = width_of(*pixels.shape[:2])
            picture = report.draw(pixels, boxes, self._client.classes, width=width)
            report.save_image(picture, self._targets[path])

    def _say(self, row: dict[str, Any], line: str) -> None:
        print(printable(line) if self._draws else json.dumps(row), flush=True)

    def content(self) -> dict[str, Any]:
        """Return what is written to the list."""
        return {
            "threshold": self._args.threshold,
            "images": self.rows,
            "skipped": self.skipped,
        }

    def summary(self) -> str:
        """Return where the images were computed, and what is known of the link."""
        places = ", ".join(f"{n} {place}" for place, n in sorted(self._places.items()))
        line = f"{len(self.rows)} images: {places or 'none'}"
        client = self._client
        if client.kbit is not None and client.round_trip is not None:
            is_fast = client.kbit > GIGABIT  # more cannot be told from chance
            rate = "over 1 Gbit/s" if is_fast else f"{client.kbit:.0f} kbit/s"
            line += f"; link {rate}"
            line += f", round trip {1e3 * client.round_trip:.1f} ms"
        return line


SPLIT_DETECT = Command(SPLIT_TEXT, _add_split_options, _split)
REMOTE_DETECT = Command(REMOTE_TEXT, _add_remote_options, _remote)
