"""The commands, with halves of a real net and a whole one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import cv2
import numpy as np
import pytest

from center_net import small_detector
from gluon_compress.deployment import Predictor, deploy
from gluon_compress.serving import Client, ServerAway, open_served
from gluon_compress.splitting import open_head, save_halves
from refusals import assert_refused
from running_server import address, free_port, running

MXNET = ("--runtime", "mxnet")
LOWEST = ("--threshold", "0.02")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with both halves, the whole net, and photos."""
    net, folder = small_detector("depthwise"), tmp_path_factory.mktemp("split")
    formats = {"head_formats": ["mxnet"], "tail_formats": ["mxnet"]}
    save_halves(net, folder, at="pooling0", bits=16, **formats)
    deploy(net, folder / "whole", formats=["mxnet"])
    (folder / "photos").mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        pixels = np.random.RandomState(ord(name[0])).randint(0, 255, (40, 60, 3))
        cv2.imwrite(str(folder / "photos" / name), pixels.astype(np.uint8))
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


@pytest.fixture(scope="module")
def tail_server(folder):
    with running(open_served(folder / "tail", runtime="mxnet")) as server:
        yield server


@pytest.fixture(scope="module")
def whole_server(folder):
    with running(open_served(folder / "whole", runtime="mxnet")) as server:
        yield server


@pytest.fixture(scope="module")
def found(folder):
    """Return what the whole net finds in each photo that can be read."""
    from gluon_compress.data.images import read_image

    predictor = Predictor(folder / "whole", "mxnet")
    names = ("a.jpg", "b.png", "c.jpg")
    images = [read_image(folder / "photos" / name) for name in names]
    return dict(zip(names, predictor(images)))


def assert_equal(rows, found, *, tolerance: float) -> None:
    assert [os.path.basename(row["file"]) for row in rows] == list(found)
    for row, (ids, scores, boxes) in zip(rows, found.values()):
        enough = scores >= 0.02
        assert len(row["detections"]) == enough.sum() > 0
        for each, score, box in zip(row["detections"], scores[enough], boxes[enough]):
            assert each["score"] == pytest.approx(score, abs=tolerance)
            np.testing.assert_allclose(each["box"], box, atol=0.1 + 60 * tolerance)
        classes = [("blue", "green", "red")[number] for number in ids[enough]]
        assert [each["class"] for each in row["detections"]] == classes


def test_split_detect_finds_what_the_whole_net_finds(
    call, folder, tail_server, found, tmp_path
):
    options = ("--server", address(tail_server), *MXNET, *LOWEST)
    photos, out = folder / "photos", tmp_path / "out"
    status, output, error = call(
        "split-detect", folder / "head", photos, *options, "--out", out
    )
    assert (status, error) == (0, "")
    content = json.loads((out / "detections.json").read_text())
    assert_equal(content["images"], found, tolerance=1e-3)
    assert {row["computed"] for row in content["images"]} == {"server"}
    assert {row["bytes_sent"] for row in content["images"]} == {53 + 2 * 16 * 4 * 8}
    assert [os.path.basename(row["file"]) for row in content["skipped"]] == [
        "broken.jpg"
    ]
    names = ["a.jpg", "b.png", "c.jpg", "detections.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "3 images: 3 server" in output
    assert "objects, server, 1077 bytes sent" in output


def test_remote_detect_sends_files_as_they_are(call, folder, whole_server, found):
    options = ("--server", address(whole_server), *LOWEST, "--out", "-")
    status, output, error = call("remote-detect", folder / "photos", *options)
    assert (status, error) == (0, "")
    rows = [json.loads(line) for line in output.splitlines()]
    good = [row for row in rows if "error" not in row]
    assert len(rows) == 4
    assert good[0]["bytes_sent"] == 16 + (folder / "photos" / "a.jpg").stat().st_size
    # A PNG is sent as a JPEG, which is not the same pixels.
    assert_equal(good[::2], {n: found[n] for n in ("a.jpg", "c.jpg")}, tolerance=1e-4)


def test_remote_detect_shrinks_on_demand(call, folder, whole_server):
    options = ("--server", address(whole_server), *LOWEST, "--out", "-")
    sizes = []
    for more in ((), ("--longest", "20"), ("--quality", "20")):
        output = call("remote-detect", folder / "photos" / "a.jpg", *options, *more)[1]
        row = json.loads(output)
        sizes.append(row["bytes_sent"])
        corners = np.array([each["box"] for each in row["detections"]])
        assert corners[:, 2].max() > 30  # in pixels of the image of 60
    assert max(sizes[1:]) < sizes[0]


def test_device_computes_if_the_server_is_away(call, folder, found):
    away = ("--server", f"127.0.0.1:{free_port()}", "--fallback", folder / "whole")
    options = (*away, *MXNET, *LOWEST, "--out", "-")
    status, output, _ = call(
        "split-detect", folder / "head", folder / "photos", *options
    )
    rows = [json.loads(line) for line in output.splitlines()]
    good = [row for row in rows if "error" not in row]
    assert status == 0
    assert_equal(good, found, tolerance=1e-4)
    assert {row["computed"] for row in good} == {"device"}
    assert "server away" in good[0]["reason"]


def test_halves_that_do_not_belong_together_are_refused(
    call, folder, tail_server, tmp_path, caplog
):
    formats = {"head_formats": ["mxnet"], "tail_formats": ["mxnet"]}
    save_halves(small_detector("depthwise"), tmp_path, at="pooling0", bits=8, **formats)
    options = ("--server", address(tail_server), *MXNET, "--out", "-")
    ended = call("split-detect", tmp_path / "head", folder / "photos", *options)
    assert_refused(ended, address(tail_server), "do not belong together")
    assert "do not belong together" in caplog.text
    ended = call("remote-detect", folder / "photos", *options[:2], "--out", "-")
    assert_refused(ended, "the server has the tail of a split net")


def test_what_was_answered_is_kept_if_the_server_goes(folder, call, tmp_path):
    """The server ends after the first answer, and stays away."""
    with running(open_served(folder / "tail", runtime="mxnet")) as server:

        def end() -> None:
            while not server.metrics.value("answered_total"):
                time.sleep(0.002)
            server.loop.run(server.stop())

        ending = threading.Thread(target=end)
        ending.start()
        photo = (folder / "photos" / "a.jpg").read_bytes()
        many = tmp_path / "many"
        many.mkdir()
        for number in range(200):
            (many / f"{number:03d}.jpg").write_bytes(photo)
        options = ("--server", address(server), *MXNET, "--patience", "0.2")
        out = tmp_path / "out"
        ended = call(
            "split-detect",
            folder / "head",
            many,
            *options,
            "--out",
            out,
            "--in-flight",
            1,
        )
        ending.join()
    assert ended[0] == 2
    assert "cannot be reached" in ended[2]
    assert ended[2].count("\n") == 1
    rows = json.loads((out / "detections.json").read_text())["images"]
    assert 1 <= len(rows) < 200


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (signal.SIGTERM, 0, ""),
        (signal.SIGINT, 130, "serve.py: interrupted; all requests are answered\n"),
    ],
)
def test_serve_answers_until_a_signal(call, folder, number, status, line):
    port, metrics = free_port(), free_port()
    answers: list = []

    def use() -> None:
        try:
            head = open_head(folder / "head", runtime="mxnet")
            with Client(f"127.0.0.1:{port}", head) as client:
                answers.append(client.detect(np.full((40, 60, 3), 77, np.uint8)))
        except (ServerAway, ValueError) as error:
            answers.append(error)
        os.kill(os.getpid(), number)

    user = threading.Thread(target=use)
    user.start()
    options = ("--port", port, "--metrics-port", metrics, "--batch", 2, *MXNET)
    ended = call("serve", folder / "tail", *options)
    user.join()
    assert answers[0].where == "server"
    lines = f"serving tail on 127.0.0.1:{port}\n"
    lines += f"figures: http://127.0.0.1:{metrics}/metrics\n"
    assert ended == (status, lines, line)


# ---------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "70000"), "allowed: a port from 0 to 65535"),
        (("--port", "0", "--batch", "0"), "allowed: a whole number from 1"),
        (("--port", "0", "--max-wait-ms", "-1"), "allowed: a number from 0"),
        (("--port", "0", "--tls-cert", "a.pem"), "only one is given"),
        (("--port", "0", "--tls-cert", "a", "--tls-key", "b"), "a: cannot be read"),
        (("--port", "0", "--token-file", "none"), "none: cannot be read"),
        (("--port", "0", "--runtime", "none"), "none"),
    ],
)
def test_serve_refuses_bad_options(call, folder, options, words):
    assert_refused(call("serve", folder / "tail", *options), words)


def test_serve_refuses_what_is_no_model(call, folder, tmp_path):
    assert_refused(call("serve", tmp_path, "--port", "0"), str(tmp_path))
    assert_refused(call("serve", tmp_path / "none", "--port", "0"), "none")
    ended = call("serve", folder / "head", "--port", "0")
    assert_refused(ended, "split-head", "split-tail")


def test_serve_names_a_port_that_is_taken(call, folder, tail_server):
    ended = call("serve", folder / "tail", "--port", tail_server.port, *MXNET)
    assert_refused(ended, address(tail_server), "Address already in use")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--server", "here"), "allowed: HOST:PORT"),
        (("--server", "a:1", "--min-kbit", "9"), "only with --fallback"),
        (("--server", "a:1", "--deadline-ms", "0"), "allowed: a number above 0"),
        (("--server", "a:1", "--tls-ca", "none", *MXNET), "none: cannot be read"),
        (("--server", "a:1", "--fallback", "none", *MXNET), "none"),
    ],
)
def test_split_detect_refuses_bad_options(call, folder, options, words):
    arguments = (folder / "head", folder / "photos", "--out", "-")
    assert_refused(call("split-detect", *arguments, *options), words)


def test_a_token_is_one_line_and_is_not_shown(call, folder, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    options = ("--port", "0", "--token-file", tmp_path / "token")
    ended = call("serve", folder / "tail", *options)
    assert_refused(ended, "6 characters; allowed: one line of 16 to 1024")
    assert "secret" not in ended[2]
