"""The launcher, with programs that need no MXNet, and so begin at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from gluon_compress.distributed import Launch, lead, place_of, take
from gluon_compress.distributed.hub import Hub
from gluon_compress.distributed.launching import servers_of
from gluon_compress.distributed.members import ATTEMPT, HUB, RANK, SCRATCH
from gluon_compress.stopping import Deferred

SAY = "import os, sys; rank = os.environ['GLUON_COMPRESS_RANK']\n"


@pytest.fixture(autouse=True)
def _few_last_words(monkeypatch):
    monkeypatch.setattr("gluon_compress.distributed.group.SECONDS_TO_SAY", 0.3)


def python(code: str) -> list[str]:
    """Return the command of a program that need not even see this package."""
    return [sys.executable, "-S", "-c", SAY + code]


def run(code: str, size: int = 2, *, asked: int | None = None, **options):
    """Launch a program; return the outcome, what was said, and how long it took."""
    said: list = []
    given = {name: options.pop(name) for name in ("hosts", "port") if name in options}
    again = options.pop("again", code)
    whole = Launch(python(code), python(again), say=said.append, **options)
    begun = time.monotonic()
    outcome = lead(whole, size, Deferred(), **given)
    return outcome, said, time.monotonic() - begun


def test_lines_carry_ranks_and_the_environment_is_clean(capfd, monkeypatch):
    monkeypatch.setenv("PORT", "9191")  # MXNet's servers would all listen there
    outcome, said, _ = run(
        "print('PORT' in os.environ, os.environ['OMP_NUM_THREADS'] > '0');"
        "print('is', rank, file=sys.stderr)"
    )
    assert outcome.status == 0
    assert said == []
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == [f"[worker {r}] False True" for r in (0, 1)]
    assert sorted(err.splitlines()) == [f"[worker {r}] is {r}" for r in (0, 1)]


def test_bars_that_redraw_a_line_become_lines(capfd):
    run("sys.stdout.write('a\\rb\\r\\x1b[2Jc')", 1)
    lines = capfd.readouterr().out.splitlines()
    assert lines == ["[worker 0] a", "[worker 0] b", "[worker 0] \\x1b[2Jc"]


DIES = "import time\nif rank == '1': os.kill(os.getpid(), 9)\ntime.sleep(60)"


def test_when_one_dies_all_end_within_10_seconds():
    outcome, _, seconds = run(DIES)
    assert outcome.status == 128 + signal.SIGKILL
    assert outcome.reason == "worker 1 ended with status 137"
    assert seconds < 10


def test_what_workers_have_begun_ends_too(tmp_path):
    child = "import subprocess, time; p = subprocess.Popen(['sleep', '60']);"
    child += f"open('{tmp_path}/' + rank, 'w').write(str(p.pid));"
    outcome, _, _ = run(
        child + "time.sleep(.3); rank == '0' and os.kill(os.getpid(), 9)"
    )
    pids = [int(file.read_text()) for file in tmp_path.iterdir()]
    assert pids
    assert not [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_status_and_last_words_of_a_worker_that_fails():
    outcome, _, _ = run("rank == '1' and sys.exit('no such recipe')")
    assert outcome.status == 1
    assert outcome.reason == "worker 1 ended with status 1: no such recipe"
    assert not outcome.may_restart


def test_restarts_go_on_with_another_command_until_it_works(tmp_path):
    die = f"open('{tmp_path}/' + rank, 'w'); rank == '0' and os.kill(os.getpid(), 9)"
    again = f"assert os.environ['{ATTEMPT}'] == '2'"
    outcome, said, _ = run(die, again=again, restarts=3)
    assert outcome.status == 0
    assert said == ["worker 0 ended with status 137; beginning again, 1 of 3"]


def test_restarts_are_counted():
    outcome, said, _ = run("os.kill(os.getpid(), 9)", 1, restarts=2)
    assert outcome.status == 137
    assert len(said) == 2


def test_bad_input_is_not_tried_again():
    outcome, said, _ = run("sys.exit(2)", 1, restarts=2)
    assert (outcome.status, said) == (2, [])


def test_a_signal_goes_to_the_workers_which_may_finish():
    waits = "import signal, time; signal.signal(15, lambda *_: sys.exit(143));"
    whole = Launch(python(waits + "print('ready', flush=True); time.sleep(60)"), [])
    asked = Deferred()
    threading.Timer(0.5, lambda: setattr(asked, "number", signal.SIGTERM)).start()
    begun = time.monotonic()
    assert lead(whole, 2, asked).status == 143
    assert time.monotonic() - begun < 10


def test_a_worker_that_never_joins_is_named(port):
    variables = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    place = place_of({**variables, "MASTER_PORT": str(port)})
    whole = Launch(python("import time; time.sleep(60)"), [], patience=0.3)
    outcome = take(whole, place, Deferred())
    assert outcome.status == 2
    assert outcome.reason == "worker 1, worker 2 did not join within 0.3 s"


def test_port_in_use():
    hub = Hub(1)
    with pytest.raises(OSError, match=f"port {hub.port} of 127.0.0.1: .* in use"):
        run("", port=hub.port)
    hub.close()


def test_folder_for_leftovers_is_removed(tmp_path):
    note = f"open('{tmp_path}/' + rank, 'w').write(os.environ['{SCRATCH}'])"
    run(note)
    folders = {file.read_text() for file in tmp_path.iterdir()}
    assert len(folders) == 1
    assert not Path(folders.pop()).exists()


def test_servers_are_spread_over_ranks():
    assert [servers_of(rank, 4, 4) for rank in range(4)] == [[0], [1], [2], [3]]
    assert [servers_of(rank, 4, 2) for rank in range(4)] == [[0], [], [1], []]
    assert [servers_of(rank, 2, 4) for rank in range(2)] == [[0, 1], [2, 3]]
    assert sum((servers_of(rank, 5, 3) for rank in range(5)), []) == [0, 1, 2]


# ---------------------------------------------------------------- other hosts


@pytest.fixture
def fake_ssh(tmp_path, monkeypatch):
    """Let ssh run commands here; its arguments are in a file."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n'
        'for line; do :; done\nexec sh -c "$line"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    return tmp_path / "arguments"


def test_ranks_on_other_hosts_begin_through_ssh(fake_ssh, capfd, monkeypatch):
    # The name of this machine stands for another one's.
    monkeypatch.setattr("gluon_compress.distributed.places.LOCAL", ("localhost",))
    outcome, _, _ = run(
        f"print('hello', os.environ['{HUB}'][:4])", hosts=["localhost", "127.0.0.1"]
    )
    arguments = fake_ssh.read_text().splitlines()
    assert "127.0.0.1" in arguments
    out = capfd.readouterr().out.splitlines()
    assert "[worker 0] hello 127." in out
    assert "[worker 1] [worker 1] hello 127." in out
    assert outcome.status == 0


def test_host_that_refuses_is_named(tmp_path, monkeypatch):
    ssh = tmp_path / "ssh"
    text = "ssh: connect to host 127.0.0.1 port 22: Connection refused"
    ssh.write_text(f"#!/bin/sh\necho {text} >&2\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("gluon_compress.distributed.places.LOCAL", ("localhost",))
    outcome, _, seconds = run(
        "import time; time.sleep(60)", hosts=["localhost", "127.0.0.1"]
    )
    assert outcome.reason == f"worker 1 on 127.0.0.1 ended with status 255: {text}"
    assert outcome.status == 255
    assert seconds < 10


# ---------------------------------------------------------------- other launchers


def as_ranks(size: int, code: str, port: int, **options) -> list:
    """Return the outcomes of launchers that something else has begun."""
    outcomes: list = [None] * size

    def follow(rank: int) -> None:
        variables = {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size)}
        variables.update(SLURM_JOB_NUM_NODES="1", MASTER_PORT=str(port))
        whole = Launch(python(code), python(code), patience=5.0, **options)
        outcomes[rank] = take(whole, place_of(variables), Deferred())

    threads = [threading.Thread(target=follow, args=[rank]) for rank in range(size)]
    for thread in reversed(threads):  # rank 0 is the last
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(20)
    return outcomes


@pytest.fixture
def port() -> int:
    hub = Hub(1)
    hub.close()
    return hub.port


def test_ranks_of_slurm_find_each_other(port, capfd):
    outcomes = as_ranks(3, f"print('is', os.environ['{RANK}'])", port)
    assert [outcome.status for outcome in outcomes] == [0, 0, 0]
    out = capfd.readouterr().out.splitlines()
    assert sorted(out) == [f"[worker {rank}] is {rank}" for rank in range(3)]


def test_ranks_of_slurm_end_together(port):
    begun = time.monotonic()
    outcomes = as_ranks(3, DIES, port)
    assert time.monotonic() - begun < 10
    assert outcomes[1].status == 137
    assert all("ended with status 137" in outcome.reason for outcome in outcomes)
    assert all(outcome.status for outcome in outcomes)


def test_ranks_of_slurm_begin_again_together(port, tmp_path):
    once = (
        f"import time\nif not os.path.exists('{tmp_path}/x') and rank == '1':\n"
        f" open('{tmp_path}/x', 'w'); os.kill(os.getpid(), 9)\n"
        f"time.sleep(.1 if os.environ['{ATTEMPT}'] == '2' else 60)"
    )
    outcomes = as_ranks(2, once, port, restarts=1)
    assert [outcome.status for outcome in outcomes] == [0, 0]
