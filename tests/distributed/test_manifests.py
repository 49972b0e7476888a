"""The example scripts, with stand-ins for what starts processes on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gluon_compress.distributed.places import free_port

DOCS = Path(__file__).resolve().parents[2] / "docs" / "distributed"

# Ranks that say who they are, in place of a training.
COMMAND = """#!{python}
import os, sys
words = sys.argv[1:]
cut = words.index("--")
assert words[cut + 1 : cut + 3] == ["run", "--recipe"], words
code = "import os; print('rank', os.environ['GLUON_COMPRESS_RANK'])"
program = [{python!r}, "-m", "gluon_compress", *words[:cut], "--patience", "30", "--"]
os.execv({python!r}, [*program, {python!r}, "-S", "-c", code])
"""
# Starts a program as many times as it is told, as srun and mpirun do.
SPAWN = """#!/bin/sh
size={size}
while [ "$1" != gluon-compress ]; do shift; done
for rank in $(seq 0 $((size - 1))); do
    {variables} "$@" &
done
wait
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return a function that puts a program on PATH."""

    def put(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    put("gluon-compress", COMMAND.format(python=sys.executable))
    return put


def lines_of(script: str, **variables: str) -> list[str]:
    done = subprocess.run(
        ["sh", str(DOCS / script)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines())


RANKS = [f"[worker {rank}] rank {rank}" for rank in range(2)]


def test_slurm(cluster):
    variables = "SLURM_PROCID=$rank SLURM_NTASKS=2"
    cluster("srun", SPAWN.format(size=2, variables=variables))
    cluster("scontrol", "#!/bin/sh\necho localhost\necho other\n")
    assert lines_of("slurm.sh", SLURM_JOB_ID="4711", SLURM_JOB_NODELIST="n") == RANKS


@pytest.mark.slow
def test_mpi(cluster):
    variables = "OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=2"
    cluster("mpirun", SPAWN.format(size=2, variables=variables))
    port = str(free_port("127.0.0.1"))
    assert lines_of("mpi.sh", MASTER_ADDR="localhost", MASTER_PORT=port) == RANKS


@pytest.mark.slow
def test_kubernetes(cluster):
    yaml = pytest.importorskip("yaml")
    _, job = yaml.safe_load_all((DOCS / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    variables = {row["name"]: row.get("value") for row in container["env"]}
    assert int(variables["WORLD_SIZE"]) == spec["completions"] == spec["parallelism"]
    assert variables["MASTER_ADDR"] == f"training-0.{pod['subdomain']}"
    port = str(free_port("127.0.0.1"))
    here = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pods = [
        subprocess.Popen(
            [*container["command"], *container["args"]],
            env={**os.environ, **variables, **here, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    said = [pod.communicate()[0].strip() for pod in pods]
    assert said == ["[worker 1] rank 1", "[worker 0] rank 0"]
