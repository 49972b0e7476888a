from __future__ import annotations

import errno
import hashlib
import math
import os

import pytest

from gluon_compress.storage import atomic


def test_written_json_reads_back(tmp_path):
    content = {"name": "Größe", "values": [1, 2.5, None, True]}
    atomic.write_json(tmp_path / "a.json", content)
    assert atomic.read_json(tmp_path / "a.json") == content


def test_keys_keep_their_order(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert list(atomic.read_json(tmp_path / "a.json")) == ["b", "a"]


def test_nan_is_stored_as_null(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"ap": [math.nan, (0.5, math.nan)]})
    assert atomic.read_json(tmp_path / "a.json") == {"ap": [None, [0.5, None]]}


def test_infinity_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "a.json"
    atomic.write_json(path, 1)
    with pytest.raises(ValueError, match=r"a\.json"):
        atomic.write_json(path, math.inf)
    assert atomic.read_json(path) == 1


def test_interrupted_writing_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    atomic.write_atomically(path, b"old")

    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_file_is_readable_as_the_mask_says(tmp_path):
    atomic.write_atomically(tmp_path / "a", "text")
    (tmp_path / "b").write_text("text")
    modes = {p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b'{"a": [1, 2', "not JSON"),
        (b"", "not JSON at line 1, column 1"),
        (b'{"a": "\xff"}', "byte 7"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' is there twice"),
    ],
)
def test_broken_json_names_file_and_place(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.json.*" + message):
        atomic.read_json(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.json: there is no such file"):
        atomic.read_json(tmp_path / "none.json")


def test_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="directory"):
        atomic.read_json(tmp_path)


def test_sha256_of_more_than_one_block(tmp_path):
    content = b"x" * (atomic.BLOCK + 1)
    (tmp_path / "a").write_bytes(content)
    assert atomic.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_errors_of_the_system_get_a_name_if_they_have_none(tmp_path):
    with pytest.raises(OSError, match="No space") as error, atomic.errors_for(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path)
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError) as error, atomic.errors_for(tmp_path):
        (tmp_path / "none").read_bytes()
    assert error.value.filename == str(tmp_path / "none")
    with pytest.raises(OSError, match="^no number$"), atomic.errors_for(tmp_path):
        raise OSError("no number")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder", "Is a directory"),
        ("none/a.txt", "No such file"),
        ("file/a.txt", "Not a directory"),
    ],
)
def test_what_cannot_be_written_is_named_itself(tmp_path, place, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=reason) as error:
        atomic.write_atomically(tmp_path / place, "text")
    assert error.value.filename == str(tmp_path / place)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder"}


def test_full_disk_is_told_of_the_file_that_was_asked_for(tmp_path, full_disk):
    atomic.write_atomically(tmp_path / "a", "old")
    with full_disk(9), pytest.raises(OSError, match="large") as error:
        atomic.write_atomically(tmp_path / "a", "much longer than that")
    assert error.value.filename == str(tmp_path / "a")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_nothing_is_appended_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "log").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="log"), atomic.appended(tmp_path / "log") as log:
        log.truncate(0)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"), atomic.appended(tmp_path / "pipe"):
        pass
    assert not atomic.is_locked(tmp_path / "pipe")
    assert not atomic.wait_until_free(tmp_path / "pipe")


def test_appended_text_is_behind_what_was_there(tmp_path):
    for word in (b"a", b"b"):
        with atomic.appended(tmp_path / "log") as log:
            log.write(word)
    assert (tmp_path / "log").read_bytes() == b"ab"
