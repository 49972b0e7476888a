"""Opens a deployed folder once in a process of its own, within limits.

Runtimes parse their files in native code that was not written for files of strangers.
What ends that process, takes too long or too much memory does so there, and not here.
It is no sandbox: code that a fault of a runtime lets in runs as this user.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

SECONDS = 120
MOST_MB = 4000  # beyond what the process takes before it opens the folder
PROGRAM = """
import os, resource, sys
import numpy as np
from gluon_compress.deployment.predictor import Predictor
folder, runtime, precision, most_mb = sys.argv[1:]
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (int(most_mb) << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
try:
    predictor = Predictor(folder, runtime, precision=precision)
    predictor([np.zeros((64, 64, 3), np.uint8)])
except Exception as error:
    print(type(error).__name__ + ":", " ".join(str(error).split())[:200])
    sys.exit(2)
"""


def try_apart(folder: str | os.PathLike, runtime: str, precision: str) -> None:
    """Open a folder and run one image, in another process.

    Raises
    ------
    ValueError
        If that fails, ends the process, or takes more than ``SECONDS`` or ``MOST_MB``.
    """
    command = [sys.executable, "-c", PROGRAM, os.fspath(folder), runtime, precision]
    try:
        done = subprocess.run(
            [*command, str(MOST_MB)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"it takes more than {SECONDS} seconds"
    else:
        if done.returncode == 0:
            return
        lines = done.stdout.strip().splitlines() or ["no reason given"]
        reason = lines[-1]
        if done.returncode < 0:
            reason = f"it ended with {signal.Signals(-done.returncode).name}"
    raise ValueError(f"{folder}: a trial in {runtime} failed: {reason}")
