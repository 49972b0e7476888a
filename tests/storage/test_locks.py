from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from gluon_compress.storage import atomic, locks
from gluon_compress.storage.atomic import draft_name, write_atomically
from gluon_compress.storage.locks import release_all, sole_writer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)


@pytest.fixture
def in_child():
    """Return a function that starts a process, which waits inside a block."""
    children = []

    def start(block) -> int:
        ready, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            with block:
                os.write(says, b"!")
                signal.pause()
        children.append(pid)
        os.read(ready, 1)
        os.close(ready)
        os.close(says)
        return pid

    yield start
    for pid in children:
        end(pid)


def end(pid: int) -> None:
    """Kill a child, unless it has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_second_writer_is_told_of_the_first(tmp_path, monkeypatch, in_child):
    monkeypatch.setattr(sys, "argv", ["/bin/run.py", "--out", "a b"])
    pid = in_child(sole_writer(tmp_path / "run"))
    with pytest.raises(ValueError, match="written by process") as error:
        sole_writer(tmp_path / "run").__enter__()
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'run'}: ")
    assert f"process {pid} on {os.uname().nodename}, since 2" in message
    assert message.endswith("run.py --out 'a b'")


def test_lock_of_a_killed_writer_is_free(tmp_path, in_child):
    end(in_child(sole_writer(tmp_path / "run")))
    assert names(tmp_path) == [".run.lock"]
    with sole_writer(tmp_path / "run"):
        pass
    assert names(tmp_path) == []


def test_one_process_does_not_write_twice_either(tmp_path):
    with sole_writer(tmp_path), pytest.raises(ValueError, match=str(os.getpid())):
        sole_writer(tmp_path).__enter__()


def test_folder_has_one_lock_by_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    for name in ("run", "run/", "./run", "link", "run/../run"):
        with sole_writer(tmp_path / "run"), pytest.raises(ValueError, match="writ"):
            sole_writer(name).__enter__()


def test_what_lies_in_a_folder_belongs_to_its_writer(tmp_path, in_child):
    in_child(sole_writer(tmp_path / "run"))
    with pytest.raises(ValueError, match=f"lies in {tmp_path / 'run'}: is being"):
        sole_writer(tmp_path / "run" / "full").__enter__()
    with sole_writer(tmp_path / "other"):
        pass
    assert names(tmp_path) == [".run.lock"]


def test_writer_of_a_folder_may_lock_what_lies_in_it(tmp_path):
    with sole_writer(tmp_path / "run"), sole_writer(tmp_path / "run" / "full"):
        assert names(tmp_path) == [".run.lock", "run"]
    assert names(tmp_path) == []


def test_locks_leave_no_folders_behind_but_those_with_content(tmp_path):
    with sole_writer(tmp_path / "a" / "b" / "run"):
        (tmp_path / "a" / "mine").touch()
    assert names(tmp_path / "a") == ["mine"]


def test_folder_whose_parent_is_closed_holds_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    (tmp_path / "run").mkdir()
    with sole_writer(tmp_path / "run"):
        assert names(tmp_path / "run") == [".lock"]
    assert names(tmp_path / "run") == []


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"pid": 1}', b"\xff", b"[" * 5000])
def test_lock_file_may_say_anything(tmp_path, content):
    with sole_writer(tmp_path / "run"):
        (tmp_path / ".run.lock").write_bytes(content)
        with pytest.raises(ValueError, match="by another process$"):
            sole_writer(tmp_path / "run").__enter__()


def test_message_is_one_short_line(tmp_path):
    with sole_writer(tmp_path / "run"):
        text = '{"pid": "1\\n2", "host": "h", "since": "%s", "command": "c"}'
        (tmp_path / ".run.lock").write_text(text % ("0" * 2000))
        with pytest.raises(ValueError, match="process 1 2 on h") as error:
            sole_writer(tmp_path / "run").__enter__()
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_fork_does_not_keep_a_lock(tmp_path, in_child):
    with sole_writer(tmp_path / "run"):
        in_child(nullcontext())
    with sole_writer(tmp_path / "run"):
        pass


def test_fork_that_unwinds_leaves_its_parents_lock(tmp_path):
    with sole_writer(tmp_path / "run"):
        pid = os.fork()
        if pid == 0:
            try:
                release_all()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert names(tmp_path) == [".run.lock"]


def test_process_that_leaves_at_once_releases_its_locks(tmp_path):
    with sole_writer(tmp_path / "run"):
        release_all()
        assert names(tmp_path) == []


def test_disk_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def cannot(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", cannot)
    draft = draft_name(tmp_path / "run" / "a")
    with sole_writer(tmp_path / "run"):
        (tmp_path / "run").mkdir()
        draft.touch()
        write_atomically(tmp_path / "run" / "a", "new")
    with sole_writer(tmp_path / "run"):
        assert names(tmp_path / "run") == [draft.name, "a"]  # it may be alive


# ---------------------------------------------------------------- leftovers


def test_writer_removes_what_killed_ones_left(tmp_path, in_child):
    (tmp_path / "run").mkdir()
    end(in_child(atomic.atomic_file(tmp_path / "run" / "a")))
    assert len(names(tmp_path / "run")) == 1
    with sole_writer(tmp_path / "run"):
        assert names(tmp_path / "run") == []


def test_writer_of_a_file_removes_its_drafts_alone(tmp_path):
    drafts = [draft_name(tmp_path / name) for name in ("a", "b", "a.b")]
    for draft in drafts:
        draft.touch()
    with sole_writer(tmp_path / "a"):
        left = names(tmp_path)
    assert left == sorted([".a.lock", drafts[1].name, drafts[2].name])


def test_draft_of_a_living_writer_stays(tmp_path, in_child):
    (tmp_path / "run").mkdir()
    in_child(atomic.atomic_file(tmp_path / "run" / "a"))
    with sole_writer(tmp_path / "run"):
        assert len(names(tmp_path / "run")) == 1


def test_only_drafts_are_leftovers(tmp_path):
    kept = [".a.tmp", "a.tmp", f"a.{'0' * 32}.tmp", f".a.{'g' * 32}.tmp", ".a.lock"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f".link.{'0' * 32}.tmp").symlink_to(".a.tmp")
    with sole_writer(tmp_path):
        pass
    assert set(kept) < set(names(tmp_path))


def test_long_names_have_short_drafts(tmp_path):
    write_atomically(tmp_path / ("ä" * 120 + ".json"), "text")
    assert len(names(tmp_path)) == 1


def test_next_writer_of_a_file_uses_up_what_a_killed_one_left(tmp_path, in_child):
    end(in_child(atomic.atomic_file(tmp_path / "a")))
    assert len(names(tmp_path)) == 1
    write_atomically(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


def test_two_writers_of_a_file_have_drafts_of_their_own(tmp_path):
    with atomic.atomic_file(tmp_path / "a") as one:
        one.write_text("one")
        with atomic.atomic_file(tmp_path / "a") as other:
            other.write_text("other")
        assert (tmp_path / "a").read_text() == "other"
    assert (tmp_path / "a").read_text() == "one"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_draft_is_no_way_to_other_files(tmp_path, link):
    (tmp_path / "mine").write_text("mine")
    link(tmp_path / "mine", draft_name(tmp_path / "a", atomic.FIRST))
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()
