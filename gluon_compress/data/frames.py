"""Decides on which pixels the boxes of a set were drawn: turned by EXIF, or resized.

Some tools annotate images as they are stored, others as EXIF data turns them, and some
sets are resized after they were annotated. The size that an annotation states tells
which, or else the other images of the set do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Sequence

from typing_extensions import Literal, get_args

from gluon_compress.data.images import Header

Resized = Literal["error", "scale", "keep"]
RESIZED = get_args(Resized)
CLOSE = 0.01  # sides that differ by no more were rounded, not resized


@dataclass(frozen=True)
class Frame:
    """On which pixels of an image its boxes were drawn.

    Parameters
    ----------
    upright : bool
        Whether the image is turned as its EXIF data says.
    size : (int, int)
        Width and height of the image then.
    annotated : (int, int) or None
        Width and height that the annotation states.
    scaled : bool
        Whether boxes are scaled from the annotated size to that of the image.
    doubt : str
        Why the boxes may lie elsewhere; empty if there is no reason.
    """

    upright: bool
    size: tuple[int, int]
    annotated: tuple[int, int] | None = None
    scaled: bool = False
    doubt: str = ""

    @property
    def differs(self) -> bool:
        """Whether the annotation states another size."""
        return self.annotated not in (None, self.size)

    @property
    def scale(self) -> tuple[float, float]:
        """Factors from x and y of the annotation to those of the image."""
        if not self.scaled or self.annotated is None:
            return 1.0, 1.0
        (width, height), (stated_width, stated_height) = self.size, self.annotated
        return width / stated_width, height / stated_height


def choose_frames(
    headers: Sequence[Header],
    annotated: Sequence[tuple[int, int] | None],
    files: Sequence,
    *,
    resized: str = "error",
) -> list[Frame]:
    """Return on which pixels the boxes of each image of a set were drawn.

    Parameters
    ----------
    headers : sequence of Header
        Of the images, as ``images.read_header`` returns them.
    annotated : sequence of (int, int) or None
        Width and height that the annotation of each image states.
    files : sequence of path
        The images, for messages.
    resized : str
        For images of another size than annotated: ``scale`` their boxes, ``keep`` them
        as they are, or ``error``: keep them, unless most images of the set differ.

    Raises
    ------
    ValueError
        With ``error``, if more than half of the images differ from the size that their
        annotations state.

    Notes
    -----
    Orientations that leave the size as it is (180 degrees, mirrored), and annotations
    without a size, follow the images of the set whose frame is certain. If there is
    none, or they disagree, the image is turned upright, as GluonCV does, and its frame
    has a ``doubt``.
    """
    if resized not in RESIZED:
        raise ValueError(f"resized is {resized!r}; allowed: {', '.join(RESIZED)}")
    certain = [_drawn_upright(h, size) for h, size in zip(headers, annotated)]
    votes = Counter(answer for answer in certain if answer is not None)
    majority, unanimous = votes[True] >= votes[False], len(votes) == 1
    frames = []
    for header, size, answer in zip(headers, annotated, certain):
        assumed = majority or header.orientation == 1
        upright = assumed if answer is None else answer
        doubt = ""
        if answer is None and header.orientation != 1 and not unanimous:
            doubt = (
                f"EXIF orientation {header.orientation}, and nothing tells whether its "
                f"boxes were drawn on the {'upright' if upright else 'stored'} image, "
                "as is assumed"
            )
        shown = header.upright if upright else header.stored
        differs = size is not None and size != shown
        if differs and resized == "error":
            doubt = f"annotated at {_text(size)}, but the image is {_text(shown)}"
        scaled = differs and resized == "scale"
        frames.append(Frame(upright, shown, size, scaled, doubt))
    if resized == "error":
        _refuse_resized(frames, files)
    return frames


def _drawn_upright(header: Header, annotated: tuple[int, int] | None) -> bool | None:
    """Return whether the boxes lie on the upright image; None: the size cannot tell."""
    if header.upright == header.stored or annotated is None:
        return None
    for alike in (tuple.__eq__, _same_ratio):
        upright, stored = (alike(annotated, s) for s in (header.upright, header.stored))
        if upright != stored:
            return upright
    return None


def _same_ratio(annotated: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether one is the other resized and rounded to whole pixels."""
    return abs(annotated[0] * size[1] - annotated[1] * size[0]) <= sum(size)


def _refuse_resized(frames: Sequence[Frame], files: Sequence) -> None:
    other = [i for i, frame in enumerate(frames) if frame.differs and not _close(frame)]
    if 2 * len(other) <= len(frames):
        return
    frame = frames[other[0]]
    raise ValueError(
        f"{files[other[0]]}: is {_text(frame.size)}, annotated at "
        f"{_text(frame.annotated)}, and {len(other)} of {len(frames)} images differ; "
        '"resized": "scale" (--resized scale) scales boxes with the images, "keep" '
        "takes them as written"
    )


def _close(frame: Frame) -> bool:
    pairs = zip(frame.size, frame.annotated or frame.size)
    return all(abs(a - b) <= max(1, CLOSE * a) for a, b in pairs)


def _text(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))
