"""Runs the scheduler or a server of MXNet's parameter server; a program of its own.

MXNet's Python package would do the same at its import, which takes seconds and memory
for a thousand operators that a server never calls. Here MXNet's library alone is
loaded, and asked through its C interface. The variables ``DMLC_ROLE``,
``DMLC_PS_ROOT_URI``, ``DMLC_PS_ROOT_PORT``, ``DMLC_NUM_WORKER`` and
``DMLC_NUM_SERVER`` say what to run. The program ends when its standard input does: with
the process that began it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

_CONTROLLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def library() -> Path:
    """Return the file of MXNet's library.

    Raises
    ------
    FileNotFoundError
        If MXNet is not installed.
    """
    found = importlib.util.find_spec("mxnet")
    if found is None or found.origin is None:
        raise FileNotFoundError("MXNet is not installed")
    return Path(found.origin).parent / "libmxnet.so"


def serve() -> None:
    """Do the work of a scheduler or server until all workers are done."""
    os.environ.pop("PORT", None)  # MXNet would listen there
    mxnet = ctypes.CDLL(str(library()))
    mxnet.MXGetLastError.restype = ctypes.c_char_p
    store = ctypes.c_void_p()
    _check(mxnet, mxnet.MXKVStoreCreate(b"dist", ctypes.byref(store)))
    # Called for commands other than the built-in ones, of which we send none.
    controller = _CONTROLLER(lambda number, body, _: None)
    _check(mxnet, mxnet.MXKVStoreRunServer(store, controller, None))


def _check(mxnet: ctypes.CDLL, failed: int) -> None:
    if failed:
        text = mxnet.MXGetLastError().decode(errors="replace")
        sys.exit(f"MXNet's parameter server: {text.splitlines()[0]}")


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    serve()
