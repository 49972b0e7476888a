"""Frames of files and of live sources."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from gluon_compress.data.video import Capture, Latest, VideoFrame
from gluon_compress.data.video_writer import (
    ENCODERS,
    MARK,
    VideoWriter,
    is_written_here,
    new_video,
)
from videos import STEP, grey, turn, with_codec, write_video


@pytest.mark.parametrize("ending", list(ENCODERS))
def test_frames_of_a_written_video_come_back_in_order_and_time(tmp_path, ending):
    path = write_video(tmp_path / f"clip{ending}", 20, 12.5)
    assert is_written_here(path)
    capture = Capture(path)
    assert (capture.rate, capture.count) == (12.5, 20)
    frames = list(capture)
    assert [frame.number for frame in frames] == list(range(20))
    seconds = [frame.seconds for frame in frames]
    assert np.allclose(seconds, np.arange(20) / 12.5, atol=2e-3)
    assert all(frame.image.shape == (48, 64, 3) for frame in frames)
    values = np.array([frame.image.mean() for frame in frames])
    assert np.abs(values - STEP * np.arange(20)).max() < 6  # lossy
    assert capture.problem == ""


def test_only_each_nth_frame_is_decoded(tmp_path):
    path = write_video(tmp_path / "clip.avi", 20)
    frames = list(Capture(path, every=6))
    assert [frame.number for frame in frames] == [0, 6, 12, 18]
    assert [round(frame.seconds, 3) for frame in frames] == [0.0, 0.6, 1.2, 1.8]


def test_colours_keep_their_order(tmp_path):
    with new_video(tmp_path / "red.mp4", 10) as writer:
        writer.write(np.full((48, 64, 3), (200, 20, 20), np.uint8), 0.0)
    red, green, blue = next(iter(Capture(tmp_path / "red.mp4"))).image.mean((0, 1))
    assert red > 180
    assert max(green, blue) < 45


def test_videos_of_turned_phones_are_upright(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:16, :16] = 255  # stored at the top left, shown at the top right
    with new_video(tmp_path / "clip.mp4", 10) as writer:
        writer.write(image, 0.0)
    turn(tmp_path / "clip.mp4")
    shown = next(iter(Capture(tmp_path / "clip.mp4"))).image
    expected = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    assert shown.shape == (64, 48, 3)
    assert np.abs(shown.astype(int) - expected).mean() < 8


@pytest.mark.parametrize("ending", [".avi", ".mkv", ".webm"])
def test_what_is_left_of_a_cut_video_is_read_and_the_cut_is_told(tmp_path, ending):
    path = write_video(tmp_path / f"clip{ending}", 40)
    content = path.read_bytes()
    path.write_bytes(content[: int(0.6 * len(content))])
    capture = Capture(path)
    read = len(list(capture))
    assert 0 < read < 36
    assert capture.problem == f"{path}: broken after {read} of 40 frames"


def test_videos_without_a_frame_are_told(tmp_path):
    path = write_video(tmp_path / "clip.avi", 3)
    with_codec(path, b"MJPG", b"QQQQ")
    try:
        capture = Capture(path)
        assert list(capture) == []
        message = capture.problem
    except ValueError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "OpenCV" in message


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("none.mp4", "there is no such file"),
        ("noise.mp4", "can read no video"),
        ("empty.mp4", "can read no video"),
        ("cut.mp4", "can read no video"),
        ("folder.mp4", "no regular file"),
        ("\udcff.mp4", "UTF-8"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, capfd, name, named):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.RandomState(0).bytes(4000))
    whole = write_video(tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=named):
        Capture(tmp_path / name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", [97, "/dev/video97", "rtsp://me:pass@127.0.0.1:9/"])
def test_cameras_that_cannot_be_opened_are_named(capfd, source):
    shown = str(source).replace("me:pass@", "")
    with pytest.raises(ValueError, match=f"^camera {shown}: cannot be opened"):
        Capture(source, live=True)
    assert capfd.readouterr() == ("", "")


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.avi", 3)
    monkeypatch.setenv("GLUON_COMPRESS_MOST_PIXELS", "3071")
    with pytest.raises(ValueError, match="more than 3071 pixels"):
        Capture(path)


# ---------------------------------------------------------------- live sources


class Live:
    """Frames that come at a time of their own, whether asked for or not."""

    name = "camera 7"

    def __init__(self, count: int, pause: float) -> None:
        self.count, self.pause, self.problem = count, pause, ""
        self.newest = -1

    def __iter__(self):
        for number in range(self.count):
            time.sleep(self.pause)
            self.newest = number
            yield VideoFrame(number, number * self.pause, grey(0))
        self.problem = f"{self.name}: no more frames after {self.count}"


def test_a_slow_reader_of_a_live_source_gets_new_frames_and_misses_old_ones():
    source = Live(40, 0.005)
    latest = Latest(source)
    seen, ages = [], []
    for frame in latest:
        ages.append(source.newest - frame.number)
        seen.append(frame.number)
        time.sleep(0.03)  # six frames
    assert seen == sorted(set(seen))
    assert len(seen) + latest.dropped == 40
    assert latest.dropped > 15
    assert seen[-1] == 39
    assert sum(ages) / len(ages) < 4  # never the delay of a queue
    assert latest.problem == "camera 7: no more frames after 40"


def test_a_fast_reader_of_a_live_source_misses_nothing():
    taken = threading.Event()

    class Patient:
        def __iter__(self):
            for number in range(10):
                yield VideoFrame(number, number / 10, grey(0))
                taken.wait(5)
                taken.clear()

    latest, seen = Latest(Patient()), []
    for frame in latest:
        seen.append(frame.number)
        taken.set()
    assert seen == list(range(10))
    assert latest.dropped == 0


def test_a_live_source_that_hangs_is_given_up_and_named():
    class Hanging:
        name = "camera 7"

        def __iter__(self):
            yield VideoFrame(0, 0.0, grey(0))
            threading.Event().wait(5)

    latest = Latest(Hanging(), patience=0.2)
    start = time.monotonic()
    assert len(list(latest)) == 1
    assert latest.problem == "camera 7: no frame for 0.2 seconds"
    assert time.monotonic() - start < 3


def test_an_error_of_the_reading_thread_is_told():
    class Failing:
        def __iter__(self):
            yield VideoFrame(0, 0.0, grey(0))
            raise OSError("unplugged")

    latest = Latest(Failing())
    assert len(list(latest)) == 1
    assert latest.problem == "unplugged"


def test_reading_a_live_source_stops_when_asked():
    is_over = threading.Event()
    latest = Latest(Live(10_000, 0.002), stopped=is_over.is_set)
    for frame in latest:
        if frame.number > 5:
            is_over.set()
    assert latest.problem == ""
    assert not latest._thread.is_alive()


# ---------------------------------------------------------------- writing


def test_frames_are_shown_at_their_times(tmp_path):
    with new_video(tmp_path / "a.avi", 10) as writer:
        for number, seconds in ((2, 5.0), (10, 5.4), (20, 5.5)):
            writer.write(grey(number), seconds)
    values = [round(f.image.mean() / STEP) for f in Capture(tmp_path / "a.avi")]
    # A frame that is late is shown until the next one: 0.4 s are four frames.
    assert len(values) == 6
    assert (values[0], values[-1]) == (2, 20)


def test_times_that_jump_do_not_fill_the_disk(tmp_path):
    with new_video(tmp_path / "a.avi", 10) as writer:
        for seconds in (0.0, 1e6, 1e6 + 0.1):
            writer.write(grey(1), seconds)
    assert writer.frames == 3


def test_frames_of_another_size_are_fitted(tmp_path):
    with new_video(tmp_path / "a.avi", 10) as writer:
        writer.write(grey(20, 49, 65), 0.0)  # sides become even
        writer.write(grey(20, 30, 20), 0.1)  # two thirds of the width are black
    first, second = (frame.image for frame in Capture(tmp_path / "a.avi"))
    assert first.shape == second.shape == (48, 64, 3)
    assert second[:, :14].mean() < 8
    assert second[:, 26:38].mean() == pytest.approx(20 * STEP, abs=6)


def test_no_video_is_left_where_a_block_fails_or_writes_no_frame(tmp_path):
    def fail() -> None:
        with new_video(tmp_path / "a.mp4", 10) as writer:
            writer.write(grey(1), 0.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with new_video(tmp_path / "b.mp4", 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, full_disk):
    rng = np.random.RandomState(0)

    def write() -> None:
        with new_video(tmp_path / "a.avi", 10) as writer:
            for number in range(30):
                noise = rng.randint(0, 256, (48, 64, 3)).astype(np.uint8)
                writer.write(noise, number / 10)

    with full_disk(20_000), pytest.raises(OSError, match=r"a\.avi"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_only_videos_with_the_mark_are_ours(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    assert is_written_here(path)
    path.write_bytes(path.read_bytes()[: -len(MARK)])
    assert not is_written_here(path)
    assert not is_written_here(tmp_path / "none.mp4")


def test_rates_that_cannot_be_right_are_replaced(tmp_path):
    for stated, used in ((0.0, 25.0), (90_000.0, 25.0), (29.97, 29.97)):
        assert VideoWriter(tmp_path / "a.mp4", stated).rate == used
