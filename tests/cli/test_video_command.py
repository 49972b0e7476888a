"""``detect`` on videos and live sources."""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import runtimes
from gluon_compress import detector, models
from gluon_compress.cli import video
from gluon_compress.cli.video import camera, place, write_frame
from gluon_compress.data.video import Capture, VideoFrame
from gluon_compress.data.video_writer import ENCODERS, is_written_here, new_video
from gluon_compress.detector import load_detector
from servers import serving
from videos import grey, turn, write_video

CLASSES = ("cat", "dog")
LOADED: list = []


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a thin, untrained detector."""
    net = runtimes.detector(CLASSES, size=96)
    folder = tmp_path_factory.mktemp("models") / "thin"
    models.save(net, folder, "thin")
    return folder


@pytest.fixture
def clip(tmp_path) -> Path:
    """Return a video of two seconds."""
    return write_video(tmp_path / "clip.mp4", 20, 10.0)


@pytest.fixture
def loaded(monkeypatch, model):
    """Load the detector and run it for the first time once for all tests."""
    if not LOADED:
        LOADED.append(load_detector(model))
        LOADED[0].find(grey(0))
    monkeypatch.setattr(detector, "load_detector", lambda *given, **options: LOADED[0])


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_gets_the_drawn_video_and_json_lines(call, model, clip, tmp_path):
    out = tmp_path / "out"
    options = ("--out", out, "--threshold", "0.01", "--every", "4")
    status, said, error = call("detect", model, clip, *options)
    assert (status, error) == (0, "")
    assert f"{clip}: 5 frames, " in said
    header, *records = lines_of(out / "clip.jsonl")
    assert header == {
        "source": str(clip),
        "threshold": 0.01,
        "classes": list(CLASSES),
    }
    assert [record["frame"] for record in records] == [0, 4, 8, 12, 16]
    assert [record["seconds"] for record in records] == [0.0, 0.4, 0.8, 1.2, 1.6]
    assert all(record["size"] == [64, 48] for record in records)
    found = [each for record in records for each in record["detections"]]
    assert found
    assert all(each["class"] in CLASSES and each["score"] >= 0.01 for each in found)
    drawn = Capture(out / "clip.mp4")
    frames = list(drawn)
    assert (drawn.rate, len(frames)) == (2.5, 5)  # as long as the clip
    assert frames[0].image.shape == (360, 480, 3)  # wide enough for labels
    assert np.ptp(frames[0].image) > 100  # boxes on one grey


def test_boxes_are_those_of_the_frame(call, model, loaded, clip, tmp_path):
    out = tmp_path / "found.jsonl"
    options = ("--out", out, "--threshold", "0.01", "--seconds", "0.25")
    assert call("detect", model, clip, *options)[0] == 0
    records = lines_of(out)[1:]
    assert [record["frame"] for record in records] == [0, 1, 2]
    frames = list(Capture(clip))
    for record, frame in zip(records, frames):
        ids, scores, boxes = LOADED[0].find(frame.image, 0.01)
        assert [each["class"] for each in record["detections"]] == [
            CLASSES[int(i)] for i in ids
        ]
        stated = [each["box"] for each in record["detections"]]
        assert np.allclose(stated, np.round(boxes, 1), atol=0.051)
        assert len(scores) == len(stated)


def test_frames_of_turned_phones_are_upright(call, model, loaded, clip, tmp_path):
    turn(clip)
    out = tmp_path / "found.jsonl"
    assert call("detect", model, clip, "--out", out, "--seconds", "0.1")[0] == 0
    assert lines_of(out)[1]["size"] == [48, 64]


def test_json_lines_go_to_standard_output(call, model, loaded, clip):
    status, said, error = call("detect", model, clip, "--out", "-", "--every", "10")
    assert status == 0
    assert [json.loads(line).get("frame") for line in said.splitlines()] == [
        None,
        0,
        10,
    ]
    assert error.startswith(f"{clip}: 2 frames, ")


def test_own_outputs_are_replaced_and_no_others(call, model, loaded, clip, tmp_path):
    for name in ("found.mp4", "found.jsonl"):
        out, options = tmp_path / name, ("--every", "10")
        assert call("detect", model, clip, "--out", out, *options)[0] == 0
        assert call("detect", model, clip, "--out", out, *options)[0] == 0
        out.write_bytes(b'{"mine": 1}\n')
        status, _, error = call("detect", model, clip, "--out", out, *options)
        assert status == 2
        assert f"{out}: is another file" in error
        assert out.read_bytes() == b'{"mine": 1}\n'


def test_inputs_may_follow_options(call, loaded, model, clip, tmp_path):
    images = tmp_path / "photos"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), grey(9))
    for given, name in ((clip, "clip.mp4"), (images, "a.png")):
        out = ("--out", tmp_path / "out", "--threshold", "0.9")
        status, _, error = call("detect", model, *out, given)
        assert (status, error) == (0, "")
        assert (tmp_path / "out" / name).exists()


def test_a_video_never_replaces_itself(call, model, loaded, clip):
    before = clip.read_bytes()
    for out in (clip, clip.parent):
        status, _, error = call("detect", model, clip, "--out", out)
        assert (status, clip.read_bytes()) == (2, before)
        assert "is the video to read" in error


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), "the following arguments are required: IMAGE_FOLDER_OR_VIDEO"),
        (("clip.mp4", "clip.mp4"), "a video is the only input"),
        (("clip.mp4", "--camera", "0"), "--camera 0: not together with"),
        (("--camera", "97"), "camera 97: cannot be opened"),
        (("--camera", "front"), "--camera: 'front'; allowed: a number from 0"),
        (("clip.mp4", "--every", "0"), "--every: '0'"),
        (("clip.mp4", "--seconds", "0"), "--seconds: '0'"),
        (("clip.mp4", "--seconds", "nan"), "--seconds: 'nan'"),
        (("a.png", "--every", "2"), "--every 2: only of a video"),
        (("a.png", "--out", "b.mp4"), "--out b.mp4; allowed for images: a folder"),
        (("a.png", "--out", "-"), "--out -; allowed for images: a folder"),
        (("none.mp4",), "none.mp4: there is no such file"),
        (("noise.mp4",), "noise.mp4: OpenCV can read no video"),
    ],
)
def test_bad_input_is_one_line(call, monkeypatch, tmp_path, model, clip, given, named):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", grey(9))
    Path("noise.mp4").write_bytes(bytes(range(256)) * 9)
    out = () if "--out" in given else ("--out", "out")
    status, said, error = call("detect", model, *given, *out)
    assert (status, said) == (2, "")
    assert named in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_what_was_read_of_a_broken_video_is_kept(call, model, loaded, tmp_path):
    path = write_video(tmp_path / "clip.avi", 40)
    content = path.read_bytes()
    path.write_bytes(content[: int(0.6 * len(content))])
    out = tmp_path / "out"
    status, said, error = call("detect", model, path, "--out", out)
    read = len(lines_of(out / "clip.jsonl")) - 1
    assert (status, 0 < read < 36) == (2, True)
    assert f"{read} frames, " in said
    assert error == (f"detect.py: error: {path}: broken after {read} of 40 frames\n")
    assert len(list(Capture(out / "clip.mp4"))) == read


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_finish_the_files(
    call, request, monkeypatch, model, loaded, clip, tmp_path, number, status
):
    """Also where the tests themselves run in the background, and ignore Ctrl-C."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))
    seen = []

    def write_and_stop(frame, *others) -> None:
        write_frame(frame, *others)
        seen.append(frame.number)
        if len(seen) == 3:
            os.kill(os.getpid(), getattr(signal, number))

    monkeypatch.setattr(video, "write_frame", write_and_stop)
    out = tmp_path / "out"
    ended, said, error = call("detect", model, clip, "--out", out)
    assert ended == status
    assert f"{clip}: 3 frames, " in said
    assert error.startswith("detect.py: ")
    assert seen == [0, 1, 2]
    assert len(lines_of(out / "clip.jsonl")) == 1 + 3
    assert is_written_here(out / "clip.mp4")
    assert len(list(Capture(out / "clip.mp4"))) == 3
    assert sorted(os.listdir(out)) == ["clip.jsonl", "clip.mp4"]


def test_of_a_stream_frames_are_dropped_and_files_finished(
    call, monkeypatch, model, loaded, tmp_path
):
    """As phones and IP cameras send it: JPEG images, one after another."""
    jpeg = cv2.imencode(".jpg", grey(20))[1].tobytes()

    def send(handler, *ignored) -> None:
        handler.send_response(200)
        kind = "multipart/x-mixed-replace; boundary=frame"
        handler.send_header("Content-Type", kind)
        handler.end_headers()
        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        with suppress(OSError):
            for _ in range(60):
                handler.wfile.write(part % len(jpeg) + jpeg + b"\r\n")
                time.sleep(0.01)

    def write_slowly(frame, *others) -> None:
        write_frame(frame, *others)
        time.sleep(0.08)

    monkeypatch.setattr(video, "write_frame", write_slowly)
    out = tmp_path / "out"
    with serving() as server:
        url, server.misbehave["/video"] = f"{server.url}/video", [send] * 3
        given = ("--camera", url, "--out", out, "--threshold", "0.01")
        status, said, error = call("detect", model, *given)
    assert status == 2  # cameras that end are missed
    assert f"camera {url}: no more frames after 60" in error
    numbers = [record["frame"] for record in lines_of(out / "camera.jsonl")[1:]]
    assert numbers == sorted(set(numbers))
    assert 3 <= len(numbers) < 30
    assert f"{60 - len(numbers)} dropped" in said
    assert is_written_here(out / "camera.mp4")


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Of 200 frames, only those at work are in memory."""
    alive: list[weakref.ref] = []
    most = 0

    class Image(np.ndarray):
        """An array that can be referred to weakly."""

    def find(image, threshold):
        empty = np.zeros(0)
        return empty, empty, np.zeros((0, 4))

    finder = SimpleNamespace(find=find, classes=CLASSES)
    with new_video(tmp_path / "a.avi", 10) as writer:
        for number in range(200):
            image = grey(1).view(Image)
            alive.append(weakref.ref(image))
            frame = VideoFrame(number, number / 10, image)
            write_frame(frame, finder, 0.5, (writer, None))
            most = max(most, sum(each() is not None for each in alive))
    assert most <= 2


def test_endings_of_videos_are_those_that_can_be_written(tmp_path):
    assert video._encoders() == tuple(ENCODERS)
    assert [place(text) for text in ("-", "a.MP4", "b.jsonl")] == [
        "",
        "a.MP4",
        "b.jsonl",
    ]
    assert [camera(text) for text in ("0", "/dev/video2")] == [0, "/dev/video2"]


def test_progress_is_seldom_where_nobody_watches(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(video.time, "monotonic", lambda: now[0])
    told = video._Speed("clip.mp4", 300, SimpleNamespace(dropped=4))
    for number in range(120):
        now[0] += 0.25
        told.count(VideoFrame(number, 0.0, grey(0)))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"frame {n} of 300, 4.0 a second, 4 dropped" for n in (40, 80, 120)
    ]
