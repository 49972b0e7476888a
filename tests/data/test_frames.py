"""On which pixels boxes were drawn, by the size that annotations state."""

from __future__ import annotations

import pytest

from gluon_compress.data.frames import choose_frames
from gluon_compress.data.images import Header

STORED, UPRIGHT = (80, 60), (60, 80)


def frames(*images, **options):
    """Return the frames of images, each (orientation, annotated size)."""
    headers = [Header(*STORED, orientation) for orientation, _ in images]
    names = [f"{i}.jpg" for i in range(len(images))]
    return choose_frames(headers, [size for _, size in images], names, **options)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize(
    ("annotated", "size"),
    [
        (STORED, STORED),
        (UPRIGHT, UPRIGHT),
        ((40, 30), STORED),  # resized, the ratio tells
        ((121, 161), UPRIGHT),
    ],
)
def test_annotated_size_tells_a_quarter_turn(orientation, annotated, size):
    (frame,) = frames((orientation, annotated), resized="scale")
    assert (frame.upright, frame.size, frame.doubt) == (size == UPRIGHT, size, "")


@pytest.mark.parametrize("orientation", [2, 3, 4])
@pytest.mark.parametrize("evidence", [STORED, UPRIGHT])
def test_half_turns_follow_the_quarter_turns_of_the_set(orientation, evidence):
    *_, half = frames((6, evidence), (8, evidence), (orientation, STORED))
    assert half.upright == (evidence == UPRIGHT)
    assert (half.size, half.doubt) == (STORED, "")


@pytest.mark.parametrize(
    ("others", "upright"),
    [
        ([], True),
        ([(1, STORED)], True),  # whose two frames are one
        ([(6, STORED), (8, UPRIGHT)], True),
        ([(6, STORED), (6, STORED), (8, UPRIGHT)], False),
    ],
)
@pytest.mark.parametrize("image", [(3, STORED), (6, None)])
def test_a_frame_without_evidence_is_in_doubt(image, others, upright):
    *rest, frame = frames(*others, image)
    assert frame.upright == upright
    assert str(image[0]) in frame.doubt
    assert not any(other.doubt for other in rest)


def test_scale_is_from_the_annotation_to_the_image():
    (frame,) = frames((6, (30, 40)), resized="scale")
    assert (frame.size, frame.scale, frame.differs) == (UPRIGHT, (2.0, 2.0), True)


@pytest.mark.parametrize("resized", ["error", "keep"])
def test_boxes_are_only_scaled_by_choice(resized):
    *_, frame = frames((1, STORED), (1, (40, 30)), resized=resized)
    assert (frame.scale, frame.differs) == ((1.0, 1.0), True)
    assert bool(frame.doubt) == (resized == "error")


def test_a_set_resized_after_annotation_is_refused():
    with pytest.raises(ValueError, match=r"1\.jpg.*80x60.*40x30.*2 of 3.*resized"):
        frames((1, STORED), (1, (40, 30)), (1, (160, 160)))


def test_rounded_sizes_are_not_resized():
    for size in ((81, 60), (79, 61), None):
        assert not frames((1, size))[0].scaled


def test_choice_for_resized_images_is_checked():
    with pytest.raises(ValueError, match="'no'.*error, scale, keep"):
        frames(resized="no")
