"""What runs on a worker of a cluster: tasks in its process, or in one of their own."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Mapping, NoReturn

from gluon_compress.distributed.children import Children
from gluon_compress.provenance import ROOT, cores
from gluon_compress.stopping import Handling, Terminated, handled, last_line
from gluon_compress.sweeps.tasks import FAILURES

TASK, RESULT = "task.json", "result.json"
PROGRAM = "from gluon_compress.sweeps.worker import main; main()"
SECONDS_TO_STOP = 25.0  # of a task that nobody wants any more, before it is killed
KINDS = {kind.__name__: kind for kind in FAILURES}
RUNNING: list[Children] = []  # tasks of this worker in processes of their own


class TaskDied(Exception):
    """The process of a task was killed, or crashed."""


@lru_cache(maxsize=None)
def identity() -> Mapping[str, str]:
    """Return what has to be equal for results to be equal, with names to tell it."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "gluon_compress").rglob("*.py")):
        total.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return {
        "the code of gluon_compress": total.hexdigest()[:12],
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "mxnet": version("mxnet"),
        "numpy": version("numpy"),
    }


def difference(expected: Mapping[str, str]) -> str | None:
    """Say what is different here from where a task comes from; None: nothing."""
    for name, here in identity().items():
        if here != expected.get(name):
            return f"{name} is {here} there, and {expected.get(name)} here"
    return None


def is_busy() -> bool:
    """Return whether a task runs in a process of its own."""
    return bool(RUNNING)


def in_this_process(
    expected: Mapping[str, str], function: Callable[[Any], Any], item: Any
) -> dict:
    """Call a function, and return its value or its failure, as JSON."""
    other = difference(expected)
    if other is not None:
        return {"kind": "ValueError", "error": f"{_address()}: {other}"}
    try:
        return {"value": function(item)}
    except FAILURES as error:
        return failure(error, f"{_address()}: ")


def in_own_process(
    expected: Mapping[str, str], function: str, item: Any, name: str
) -> dict:
    """Call a function in a new process, and return its value or its failure, as JSON.

    Raises
    ------
    TaskDied
        If the process was killed: the task may begin again.
    """
    content = {
        "expected": expected,
        "function": function,
        "item": item,
        "name": name,
    }
    children = Children()
    RUNNING.append(children)
    try:
        with tempfile.TemporaryDirectory() as place:
            return _in_child(children, Path(place), content)
    finally:
        children.end()
        RUNNING.remove(children)


def _in_child(children: Children, place: Path, content: Mapping[str, Any]) -> dict:
    (place / TASK).write_text(json.dumps(content), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", PROGRAM, str(place)]
    child = children.start(content["name"], argv, env)
    deadline = None
    while child.status is None:
        if deadline is None and not _is_wanted():
            child.signal(signal.SIGTERM)
            deadline = time.monotonic() + SECONDS_TO_STOP
        if deadline is not None and time.monotonic() > deadline:
            children.end(0)
        time.sleep(0.05)
    child.close()
    result = place / RESULT
    if result.exists():
        outcome = json.loads(result.read_text(encoding="utf-8"))
        if "error" in outcome:
            outcome["error"] = f"{_address()}: {outcome['error']}"
        return outcome
    status = child.status or 0
    why = f"{_address()}: ended with status {status}"
    if status > 128:
        raise TaskDied(why)
    return {"kind": "OSError", "error": f"{why}: {child.last_error}"}


def failure(error: Exception, before: str = "") -> dict:
    """Return a failure as JSON."""
    kind = next(k.__name__ for k in FAILURES if isinstance(error, k))
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        text = f"{file}{error.strerror}"
    return {"kind": kind, "error": before + text}


def _address() -> str:
    import distributed

    return f"worker {distributed.get_worker().address}"


def _is_wanted() -> bool:
    """Return whether anybody still waits for the task of this thread."""
    import distributed

    worker = distributed.get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state in ("executing", "long-running", "resumed")


def dask_setup(worker: Any) -> None:
    """Leave the terminal's group of processes: its Ctrl-C is for the client alone.

    Dask calls this, as this module is a preload of local workers. The client tells of
    lost workers; what they log while they are ended says nothing more.
    """
    os.setpgid(0, 0)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


# ---------------------------------------------------------------- the own process


def main() -> NoReturn:
    """Carry out the task of a folder, as a command does. The program of a process."""
    place = Path(sys.argv[1])
    threading.Thread(target=_end_with_worker, daemon=True).start()
    task = json.loads((place / TASK).read_text(encoding="utf-8"))
    sys.argv = [task["name"]]
    # As for commands.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    signals = Handling(task["name"])
    try:
        with handled(signals):
            outcome = _outcome(task)
    except (KeyboardInterrupt, Terminated) as error:
        number = getattr(error, "number", signal.SIGINT)
        sys.stderr.write(last_line(task["name"], number, str(error)))
        sys.exit(128 + number)
    (place / "draft").write_text(json.dumps(outcome), encoding="utf-8")
    os.replace(place / "draft", place / RESULT)
    sys.exit(0)


def _outcome(task: Mapping[str, Any]) -> dict:
    other = difference(task["expected"])  # the worker may have begun with other files
    if other is not None:
        return {"kind": "ValueError", "error": other}
    module, _, name = task["function"].partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(task["item"])}
    except FAILURES as error:
        return failure(error)


def _end_with_worker() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
