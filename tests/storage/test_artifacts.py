from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gluon_compress.storage import artifacts
from gluon_compress.storage.artifacts import (
    MANIFEST,
    atomic_directory,
    checksums,
    one_state,
    read_manifest,
    verified,
)
from gluon_compress.storage.atomic import PROBE, write_json


def fill(draft: Path, content: str, kind: str | None = None) -> None:
    (draft / "weights").write_text(content)
    manifest = {"format": 1, "name": "net", "input": {"name": "x", "shape": [1]}}
    manifest["outputs"] = [{"name": "y", "shape": [1]}]
    write_json(draft / MANIFEST, {**manifest, "kind": kind, "files": checksums(draft)})


def write(folder: Path, content: str, kind: str | None = None, then=None) -> None:
    with atomic_directory(folder, kind) as draft:
        fill(draft, content, kind)
        if then:
            then(draft)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_exchange(monkeypatch) -> None:
    def cannot(first, second):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(artifacts, "_exchange", cannot)


@pytest.fixture(params=["exchange", "swap"])
def way(request, monkeypatch) -> None:
    """Run a test with and without a kernel that can exchange two names."""
    if request.param == "swap":
        without_exchange(monkeypatch)


@pytest.mark.usefixtures("way")
def test_new_folder_replaces_the_earlier_one(tmp_path):
    for content in ("first", "second"):
        write(tmp_path / "new" / "net", content)
        assert (tmp_path / "new" / "net" / "weights").read_text() == content
        assert names(tmp_path / "new") == ["net"]


@pytest.mark.usefixtures("way")
def test_empty_folder_is_replaced(tmp_path):
    (tmp_path / "net").mkdir()
    write(tmp_path / "net", "first")
    assert names(tmp_path) == ["net"]
    assert verified(tmp_path / "net")


def test_link_to_a_folder_stays_a_link(tmp_path):
    write(tmp_path / "real", "first")
    (tmp_path / "net").symlink_to("real")
    write(tmp_path / "net", "second")
    assert (tmp_path / "net").is_symlink()
    assert (tmp_path / "real" / "weights").read_text() == "second"


def test_error_in_the_block_leaves_the_earlier_folder(tmp_path):
    def fail(draft: Path) -> None:
        raise KeyError

    write(tmp_path / "net", "first")
    with pytest.raises(KeyError):
        write(tmp_path / "net", "second", then=fail)
    assert (tmp_path / "net" / "weights").read_text() == "first"
    assert names(tmp_path) == ["net"]


def test_file_that_appears_while_writing_is_not_replaced(tmp_path):
    def add_mine(draft: Path) -> None:
        (tmp_path / "net" / "thesis.tex").write_text("years of work")

    write(tmp_path / "net", "first")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        write(tmp_path / "net", "second", then=add_mine)
    assert (tmp_path / "net" / "weights").read_text() == "first"
    assert (tmp_path / "net" / "thesis.tex").exists()


def test_only_the_kind_asked_for_is_read(tmp_path):
    write(tmp_path / "net", "first", "ssd")
    assert read_manifest(tmp_path / "net", "ssd")["kind"] == "ssd"
    with pytest.raises(ValueError, match=r"manifest\.json: kind.*'ssd'.*'classifier'"):
        read_manifest(tmp_path / "net", "classifier")


def test_reading_changes_nothing(tmp_path):
    write(tmp_path / "net", "first")
    os.rename(tmp_path / "net", tmp_path / ".net.earlier")
    (tmp_path / ".net.0123456789abcdef0123456789abcdef.tmp").mkdir()
    before = names(tmp_path)
    for read in (read_manifest, verified):
        with pytest.raises(ValueError, match=r"net/manifest\.json"):
            read(tmp_path / "net")
    assert names(tmp_path) == before


def test_next_writer_undoes_a_swap_that_was_killed(tmp_path):
    write(tmp_path / "net", "first", "ssd")
    os.rename(tmp_path / "net", tmp_path / ".net.earlier")
    with pytest.raises(ValueError, match="kind is 'ssd'"):
        write(tmp_path / "net", "second", "classifier")
    assert (tmp_path / "net" / "weights").read_text() == "first"
    assert names(tmp_path) == ["net"]


KILLED = """
import sys, time
from gluon_compress.storage.artifacts import atomic_directory
with atomic_directory(sys.argv[1]) as draft:
    (draft / "half").write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_next_writer_removes_the_draft_of_a_killed_one(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "net")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    (draft,) = tmp_path.iterdir()
    write(tmp_path / "net", "first")
    assert (draft / "half").exists()  # its writer lives
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    write(tmp_path / "net", "second")
    assert names(tmp_path) == ["net"]


def test_drafts_of_other_folders_are_left_alone(tmp_path):
    other = tmp_path / ".net.b.0123456789abcdef0123456789abcdef.tmp"
    other.mkdir()
    write(tmp_path / "net", "first")
    assert other.exists()


def write_many(folder: Path, end: float) -> None:
    number = 0
    while time.monotonic() < end:
        write(folder, f"content {number}" * 1000)
        number += 1


def read_many(folder: Path, end: float, failures) -> None:
    while time.monotonic() < end:
        try:
            read_manifest(folder)
            verified(folder)
        except (ValueError, OSError) as error:
            failures.put(str(error))


@pytest.mark.usefixtures("way")
def test_readers_and_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    write(tmp_path / "net", "first")
    context = multiprocessing.get_context("fork")
    failures, end = context.SimpleQueue(), time.monotonic() + 1
    given = (tmp_path / "net", end)
    running = [context.Process(target=write_many, args=given) for _ in range(2)]
    running += [
        context.Process(target=read_many, args=(*given, failures)) for _ in range(2)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    assert failures.empty()
    assert names(tmp_path) == ["net"]
    assert verified(tmp_path / "net")


def test_reader_that_meets_a_writer_sees_one_state(tmp_path):
    write(tmp_path / "net", "first")
    writes = iter(["second", "third"])

    @one_state
    def read(folder: Path) -> tuple[str, str]:
        before = (folder / "weights").read_text()
        for content in writes:
            write(folder, content)
            break
        return before, (folder / "weights").read_text()

    assert read(tmp_path / "net") == ("third", "third")


def test_reader_waits_for_the_end_of_a_swap(tmp_path, monkeypatch):
    write(tmp_path / "net", "first")
    without_exchange(monkeypatch)
    read, rename = [], os.rename

    def slow(source, target):
        rename(source, target)
        if target == tmp_path / ".net.earlier":  # now there is no such folder
            reader = threading.Thread(
                target=lambda: read.append(read_manifest(tmp_path / "net")["name"])
            )
            readers.append(reader)
            reader.start()
            reader.join(0.1)

    readers: list[threading.Thread] = []
    monkeypatch.setattr(os, "rename", slow)
    write(tmp_path / "net", "second")
    readers[0].join()
    assert read == ["net"]


def test_turn_file_that_a_killed_writer_left_holds_up_nobody(tmp_path):
    (tmp_path / ".net.turn").touch()  # and there is no such folder yet
    with pytest.raises(ValueError, match="no such file"):
        read_manifest(tmp_path / "net")
    write(tmp_path / "net", "first")
    assert names(tmp_path) == ["net"]
    assert verified(tmp_path / "net")


# ---------------------------------------------------------------- full disks


def test_file_of_an_export_that_cannot_be_written_is_named(tmp_path, full_disk):
    with full_disk(3), pytest.raises(OSError, match="too large") as error:
        write(tmp_path / "net", "first")
    assert error.value.filename == str(tmp_path / "net")
    assert names(tmp_path) == []


def test_full_disk_is_told_where_a_library_does_not(tmp_path, full_disk):
    def fail(draft: Path) -> None:
        raise RuntimeError("write incomplete")

    with full_disk(PROBE - 1), pytest.raises(OSError, match="too large") as error:
        write(tmp_path / "net", "first", then=fail)
    assert error.value.filename == str(tmp_path / "net")
    assert names(tmp_path) == []


def test_other_files_keep_their_names_in_errors(tmp_path):
    with pytest.raises(FileNotFoundError) as error, atomic_directory(tmp_path / "net"):
        (tmp_path / "photo.jpg").read_bytes()
    assert error.value.filename == str(tmp_path / "photo.jpg")
