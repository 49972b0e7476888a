"""A worker in a process of its own, with a setting's threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Mapping

from gluon_compress.provenance import ROOT
from speed.settings import Setting


def alone(module: str, setting: Setting, task: Mapping) -> dict:
    """Run a worker in a process that has the setting's threads and nothing else."""
    task = {**task, **vars(setting)}
    command = [sys.executable, "-W", "ignore", "-m", module]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(setting.threads),
        "MXNET_SUBGRAPH_VERBOSE": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]),
    }
    if setting.runtime == "mxnet":  # docs/deploy.md recommends it
        environment["OMP_WAIT_POLICY"] = "active"
    done = subprocess.run(
        [*command, json.dumps(task)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{setting.runtime} {setting.precision}: {said}")
    return json.loads(done.stdout.strip().splitlines()[-1])
