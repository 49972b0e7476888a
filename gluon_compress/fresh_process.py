"""Loads exports in a process that never saw the net, nor this package.

Importing MXNet takes seconds, so one process serves all exports, until none has been
checked for five minutes. It ends with the process that started it.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, Sequence

# Reads requests as JSON lines, and answers each with a line: "" or what went wrong.
LOADER = """
import json, os, select, sys, warnings
warnings.simplefilter("ignore")
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # MXNet prints
import mxnet as mx, numpy as np
while select.select([0], [], [], 300)[0]:
    line = sys.stdin.readline()
    if not line:
        break
    symbol, params, name, inputs, outputs = json.loads(line)
    problem = ""
    try:
        net = mx.gluon.SymbolBlock.imports(symbol, [name], params)
        result = net(mx.nd.array(np.load(inputs)))
        result = result if isinstance(result, (list, tuple)) else [result]
        np.savez(outputs, *[r.asnumpy() for r in result])
    except Exception as error:
        text = str(error).strip() or "no message"
        problem = f"{type(error).__name__}: {text.splitlines()[-1]}"
    print(json.dumps(problem), file=answers, flush=True)
"""


class _Loader:
    """The process, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Any = None
        self._owner = 0  # a forked child must not talk to its parent's process

    def ask(self, request: Sequence[str]) -> str:
        """Return what went wrong with a request, or an empty text."""
        with self._lock:
            answer = self._answer(request)
            if not answer:  # idle for long, or ended by an earlier export
                self.stop()
                answer = self._answer(request)
            if not answer:
                self.stop()
                return "the process ended"
            return json.loads(answer)

    def _answer(self, request: Sequence[str]) -> str:
        if self._process is None or self._owner != os.getpid():
            self._start()
        try:
            self._process.stdin.write(json.dumps(list(request)) + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:
            return ""

    def _start(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOADER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def stop(self) -> None:
        """End the process, if it is this one's."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.wait()


_LOADER = _Loader()
atexit.register(_LOADER.stop)


def run_export(
    symbol: str, params: str, input_name: str, inputs: str, outputs: str
) -> None:
    """Run an export on stored inputs, in the other process.

    Parameters
    ----------
    symbol, params : str
        Files of the export.
    input_name : str
        Name of its input.
    inputs : str
        A ``.npy`` file.
    outputs : str
        The ``.npz`` file to write: ``arr_0`` and so on.

    Raises
    ------
    ValueError
        If the export does not load or run there; the message is MXNet's last line.
    """
    symbol, params, inputs, outputs = map(
        os.path.abspath, (symbol, params, inputs, outputs)
    )
    problem = _LOADER.ask((symbol, params, input_name, inputs, outputs))
    if problem:
        raise ValueError(problem)
