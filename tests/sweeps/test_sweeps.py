"""Sweeps on real workers, which one cluster of two processes provides for all tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gluon_compress.sweeps import Sweep, announcing, run_tasks
from gluon_compress.sweeps import worker as on_worker
from sweep_tasks import busy, die, halved, square, wait_for_go

dask = pytest.importorskip("dask")

PATIENCE = 300  # seconds; on a quiet machine, a fraction of one is enough


@pytest.fixture(scope="module")
def local():
    """Begin two local workers, as any sweep on this machine does."""
    import distributed

    from gluon_compress.sweeps.cluster import SETTINGS

    with dask.config.set(SETTINGS), distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        preload=[on_worker.__name__],
    ) as cluster:
        yield cluster


@pytest.fixture
def sweep(local):
    return Sweep(scheduler=local.scheduler_address, retries=1)


def begun(folder, name, times=1):
    """Wait until a task has begun so often; return its process and its worker."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        path = folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= times:
            return tuple(map(int, lines[-1].split()))
        time.sleep(0.05)
    raise AssertionError(f"{name} has not begun")


def is_alive(pid):
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def ended(pid):
    end = time.monotonic() + PATIENCE
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


def test_values_and_failures_are_those_of_the_serial_run(sweep):
    items, needs = [1, -2, 3, 4], {2: [0], 3: [1]}
    serial, swept = (
        {
            o.index: (o.value, type(o.error), str(o.error).split(": ", 1)[-1])
            for o in run_tasks(square, items, sweep=each, needs=needs)
        }
        for each in (None, sweep)
    )
    assert serial[0][0] == 1
    assert serial[2][0] == 9
    assert [serial[i][1] for i in (1, 3)] == [ValueError, ValueError]
    assert swept[1][2].endswith(serial[1][2])
    for i in (0, 2, 3):
        assert swept[i] == serial[i]


def test_what_is_announced_is_exact_and_computed_once(sweep):
    with announcing(halved, sweep) as ahead:
        ahead.expect([1, 2])
        assert [ahead(i) for i in (1, 2, 5, 2)] == [halved(i) for i in (1, 2, 5, 2)]
        assert len(ahead._begun) == 3
    with announcing(square, sweep) as ahead, pytest.raises(ValueError, match="-1"):
        ahead(-1)


def test_the_task_of_a_killed_worker_begins_again(sweep, tmp_path):
    items = [{"folder": str(tmp_path), "name": name} for name in ("one", "two")]
    outcomes = run_tasks(wait_for_go, items, sweep=sweep)
    values = {}

    def collect():
        values.update({o.index: (o.value, o.error) for o in outcomes})

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        first, worker = begun(tmp_path, "one")
        begun(tmp_path, "two")
        os.kill(worker, signal.SIGKILL)
        assert ended(first)  # it must not write beside its successor
        again, _ = begun(tmp_path, "one", times=2)
        assert again != first
    finally:
        (tmp_path / "go").touch()
        thread.join(PATIENCE)
    assert values == {0: ("one", None), 1: ("two", None)}
    assert len((tmp_path / "two").read_text().splitlines()) == 1


def test_a_task_that_always_dies_is_given_up(sweep, tmp_path):
    (outcome,) = run_tasks(die, [str(tmp_path)], sweep=sweep, names=["greedy"])
    assert isinstance(outcome.error, ChildProcessError)
    assert str(outcome.error).startswith("greedy: ")
    assert "137" in str(outcome.error)
    assert (tmp_path / "died").read_text() == "x" * (1 + sweep.retries)


def test_tasks_stop_with_who_asked_for_them(sweep, tmp_path):
    ready = tmp_path / "ready"
    ready.mkdir()
    (ready / "go").touch()
    items = [
        {"folder": str(folder), "name": name}
        for folder, name in ((ready, "one"), (tmp_path, "two"))
    ]
    outcomes = run_tasks(wait_for_go, items, sweep=sweep)
    assert next(outcomes).value == "one"
    process, _ = begun(tmp_path, "two")
    outcomes.close()
    assert ended(process)


def test_time_is_measured_by_one_process_at_a_time(sweep):
    values = [o.value for o in run_tasks(busy, [0, 1, 2], sweep=sweep, alone=True)]
    values.sort()
    assert len(values) == 3
    assert all(a[1] <= b[0] for a, b in zip(values, values[1:]))
    with pytest.raises(ValueError, match="workers is 2"):
        list(run_tasks(busy, [0], sweep=Sweep(workers=2), alone=True))


def test_a_worker_of_other_code_is_named(sweep, monkeypatch):
    here = {**on_worker.identity(), "mxnet": "9.9"}
    monkeypatch.setattr(on_worker, "identity", lambda: here)
    (outcome,) = run_tasks(square, [1], sweep=sweep)
    assert isinstance(outcome.error, ValueError)
    assert str(outcome.error).startswith("worker tcp://")
    assert "9.9" in str(outcome.error)


def test_an_address_where_nothing_answers_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(OSError, match=address):
        list(run_tasks(square, [1], sweep=Sweep(scheduler=address)))


def test_nothing_needs_dask_without_a_cluster():
    code = """
import sys
sys.modules["dask"] = sys.modules["distributed"] = None
from gluon_compress.sweeps import Sweep, run_tasks
assert [o.value for o in run_tasks(abs, [-1, 2])] == [1, 2]
try:
    list(run_tasks(abs, [1], sweep=Sweep(workers=1)))
except ValueError as error:
    assert "gluon_compress[sweeps]" in str(error)
else:
    raise AssertionError("it has begun")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"retries": -1}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sweep(**wrong)


def test_workers_and_a_scheduler_exclude_each_other():
    with pytest.raises(ValueError, match="tcp://a:1"):
        Sweep(workers=1, scheduler="tcp://a:1")
