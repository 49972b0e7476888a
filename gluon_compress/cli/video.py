"""Detects in a video or a camera: draws a video, writes JSON lines, shows the speed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Iterable, Iterator

from gluon_compress.cli.options import above_0, folder
from gluon_compress.cli.released import open_detector

LINES = ".jsonl"
STANDARD_OUTPUT = ""  # in place of a path
OFTEN, SELDOM = 0.5, 10.0  # seconds between reports, on a terminal and elsewhere
KEYS = {"source", "threshold", "classes"}  # of the first line of JSON lines


def place(text: str) -> str:
    """Return a folder, a video or a file of JSON lines to write; ``-`` is empty."""
    if text == "-":
        return STANDARD_OUTPUT
    return text if is_file_name(text) else folder(text)


def is_file_name(text: str) -> bool:
    """Return whether an output is one file by its ending, not a folder."""
    path = Path(text)
    return path.suffix.lower() in (LINES, *_encoders()) and not path.is_dir()


def camera(text: str) -> str | int:
    """Return the number of a camera, its device, or the address of a stream."""
    if text.isdecimal() and len(text) < 4:
        return int(text)
    if text.startswith("/dev/") or "://" in text:
        return text
    allowed = "a number from 0, a device like /dev/video0, or the address of a stream"
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: {allowed}")


def positive(text: str) -> float:
    """Return a number above 0."""
    with suppress(ValueError):
        value = float(text)
        if 0 < value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number above 0")


def add_options(parser: argparse.ArgumentParser, images: argparse.Action) -> None:
    """Add what is for videos and cameras alone; a camera stands in for ``images``."""

    class InPlaceOfImages(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, _: Any = None):
            setattr(namespace, self.dest, values)
            images.required = False

    parser.add_argument(
        "--camera",
        action=InPlaceOfImages,
        type=camera,
        metavar="SOURCE",
        help="in place of images: a number, a device such as /dev/video0, or the "
        "address of a stream",
    )
    parser.add_argument(
        "--every",
        type=above_0,
        metavar="N",
        help="of a video or camera, only each n-th frame; default: 1",
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help="of a video or camera, only the first S seconds; default: all",
    )


def names_a_video(args: argparse.Namespace) -> bool:
    """Return whether the options ask for a video or a camera.

    Raises
    ------
    ValueError
        If they ask for anything besides, or for nothing at all.
    """
    videos = [path for path in args.images if _is_video(path)]
    if args.camera is not None and args.images:
        raise ValueError(f"--camera {args.camera}: not together with {args.images[0]}")
    if videos and len(args.images) > 1:
        raise ValueError(f"{videos[0]}: a video is the only input; give one a command")
    return bool(videos) or args.camera is not None


def _is_video(path: str) -> bool:
    from gluon_compress.data.video import VIDEOS

    return Path(path).suffix.lower() in VIDEOS and not Path(path).is_dir()


def detect_in_video(args: argparse.Namespace) -> None:
    """Detect in a video or a camera, with the options of ``detect``."""
    import numpy as np

    from gluon_compress.data.video import Capture, Latest
    from gluon_compress.stopping import deferred

    is_live = args.camera is not None
    source = args.camera if is_live else args.images[0]
    video, lines = _outputs(args.out, source)
    capture = Capture(source, every=args.every or 1, live=is_live)
    detector = open_detector(args)
    if is_live:  # the first run of a net is slow, and frames would be dropped
        detector.find(np.zeros((detector.height, detector.width, 3), np.uint8))
    with deferred() as signal:
        frames: Any = capture
        if is_live:
            frames = Latest(capture, stopped=lambda: signal.number is not None)
        done = _Speed(capture.name, -(-capture.count // capture.every), frames)
        header = {
            "source": capture.name,
            "threshold": args.threshold,
            "classes": list(detector.classes),
        }
        rate = capture.rate / capture.every
        with _writers(video, lines, rate, header) as writers:
            for frame in _first(frames, args.seconds):
                write_frame(frame, detector, args.threshold, writers)
                done.count(frame)
                if signal.number is not None:
                    break
            if not done.frames and frames.problem:
                raise ValueError(frames.problem)
        done.end(video, lines)
        if signal.number is None and frames.problem:
            raise ValueError(frames.problem)


def write_frame(frame: Any, detector: Any, threshold: float, writers: tuple) -> None:
    """Detect in a frame, and give what was found to the writers that there are."""
    from gluon_compress import report

    video, lines = writers
    ids, scores, corner_boxes = detector.find(frame.image, threshold)
    boxes = report.Boxes(corner_boxes, ids, scores)
    height, width = frame.image.shape[:2]
    if video is not None:
        from gluon_compress.cli.detect import width_of

        picture = report.draw(
            frame.image, boxes, detector.classes, width=width_of(height, width)
        )
        video.write(picture, frame.seconds)
    if lines is not None:
        record = {
            "frame": frame.number,
            "seconds": round(frame.seconds, 3),
            "size": [width, height],
            "detections": boxes.records(detector.classes),
        }
        _write_line(lines, record)


def _first(frames: Iterable, seconds: float | None) -> Iterator:
    """Yield the frames of the first seconds."""
    for frame in frames:
        if seconds is not None and frame.seconds >= seconds:
            return
        yield frame


# ---------------------------------------------------------------- outputs


def _encoders() -> tuple[str, ...]:
    # Their module imports OpenCV, which --help does without.
    return (".mp4", ".mov", ".mkv", ".avi", ".webm")


def _outputs(out: str, source: str | int) -> tuple[Path | None, Path | str | None]:
    """Return the video and the JSON lines to write, where they are wanted.

    Raises
    ------
    ValueError
        If one of them would replace another file than an earlier one of its kind.
    """
    from gluon_compress.data.video_writer import is_written_here

    if out == STANDARD_OUTPUT:
        return None, STANDARD_OUTPUT
    path = Path(out)
    if is_file_name(out):
        is_lines = path.suffix.lower() == LINES
        video, lines = (None, path) if is_lines else (path, None)
    else:
        is_file = isinstance(source, str) and "://" not in source
        name = Path(str(source)).stem if is_file else "camera"
        video, lines = path / f"{name}.mp4", path / f"{name}{LINES}"
    for target, is_ours in ((video, is_written_here), (lines, _is_list)):
        if target is None or not target.exists():
            continue
        if not isinstance(source, int) and target.resolve() == Path(source).resolve():
            raise ValueError(f"{target}: is the video to read; choose another --out")
        if not target.is_file() or not is_ours(target):
            raise ValueError(f"{target}: is another file; choose a new --out")
    return video, lines


def _is_list(path: Path) -> bool:
    """Return whether a file begins as JSON lines of this command do."""
    try:
        with open(path, "rb") as file:
            first = json.loads(file.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and set(first) == KEYS


@contextmanager
def _writers(
    video: Path | None, lines: Path | str | None, rate: float, header: dict
) -> Iterator[tuple]:
    """Yield writers of a video and of JSON lines; None for what is not wanted."""
    from gluon_compress.data.video_writer import new_video
    from gluon_compress.storage.atomic import atomic_file

    with ExitStack() as stack:
        writer = None
        stream: IO[str] | None = None
        if isinstance(lines, Path):
            lines.parent.mkdir(parents=True, exist_ok=True)
            draft = stack.enter_context(atomic_file(lines))
            stream = stack.enter_context(open(draft, "w", encoding="utf-8"))
        elif lines is not None:
            stream = sys.stdout
        if video is not None:
            writer = stack.enter_context(new_video(video, rate))
        if stream is not None:
            _write_line(stream, header)
        yield writer, stream


def _write_line(stream: IO[str], record: dict) -> None:
    # Names of classes and files need not be text that the stream can hold.
    stream.write(json.dumps(record) + "\n")
    if stream is sys.stdout:
        stream.flush()


class _Speed:
    """Tells how far the work is, and its speed, on standard error.

    Parameters
    ----------
    name : str
        Of the source.
    total : int
        Frames to expect; 0: not known.
    frames : Capture or Latest
        Whose ``dropped`` frames are told, if it has any.
    """

    def __init__(self, name: str, total: int, frames: Any) -> None:
        self.name, self.total, self.frames, self._source = name, total, 0, frames
        self._is_terminal = sys.stderr.isatty()
        self._every = OFTEN if self._is_terminal else SELDOM
        self._start = self._last = time.monotonic()
        self._told = 0

    def count(self, frame: Any) -> None:
        """Count a frame; report if it is time."""
        self.frames += 1
        now = time.monotonic()
        if now - self._last >= self._every:
            speed = (self.frames - self._told) / (now - self._last)
            of = f" of {self.total}" if self.total else ""
            self._tell(f"frame {self.frames}{of}, {self._words(speed)}")
            self._last, self._told = now, self.frames

    def end(self, video: Any, lines: Any) -> None:
        """Say what was written, and how fast."""
        took = max(time.monotonic() - self._start, 1e-9)
        text = f"{self.frames} frames, {self._words(self.frames / took)}"
        places = [str(path) for path in (video, lines) if path]
        if self._is_terminal:
            print("\r\033[K", end="", file=sys.stderr)
        if places and self.frames:
            print(f"{self.name}: {text}, written to {' and '.join(places)}")
        else:
            print(f"{self.name}: {text}", file=sys.stderr)

    def _words(self, speed: float) -> str:
        dropped = getattr(self._source, "dropped", None)
        end = "" if dropped is None else f", {dropped} dropped"
        return f"{speed:.1f} a second{end}"

    def _tell(self, text: str) -> None:
        if self._is_terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
