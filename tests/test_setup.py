"""Drives the Makefile with stand-ins for Python and pip: no network, no install."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = "bash cat cksum dirname env find grep make mkdir mktemp rm sed sh tail tee tr"

# Answers like a Python that can make environments; notes in pip.calls each time that
# pip installs this package.
# In an environment it is the same file, so $PIP_STATUS is all that it needs.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$4/bin" && cat "$0" >"$4/bin/python" &&
        chmod +x "$4/bin/python" ;;
    "-m pip") case "$*" in *" -e "*) echo call >>pip.calls ;; esac
        [ "${PIP_STATUS:-0}" = 0 ] || echo "ERROR: no such host"
        exit "${PIP_STATUS:-0}" ;;
    "-m pytest") echo "=== 1 failed, 2 passed in 0.12s ==="; exit 1 ;;
    "-V "*) echo "Python 3.9.0" ;;
esac
"""
BROKEN = "#!/bin/sh\necho 'command not found' >&2\nexit 127\n"
WITHOUT_VENV = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n'


class Checkout:
    """A copy of the set-up files and a PATH that holds nothing but stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "a checkout", folder / "bin"
        self.bin.mkdir()
        for name in ("Makefile", "setup.py", "scripts/venv.sh", ".ci/run"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        for tool in (*TOOLS.split(), "chmod", "touch"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def add_python(self, name: str, content: str = PYTHON) -> None:
        (self.bin / name).write_text(content)
        (self.bin / name).chmod(0o755)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={"PATH": str(self.bin), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def make(self, target: str, **variables: str) -> subprocess.CompletedProcess:
        return self.run("make", target, **variables)

    def pip_calls(self) -> int:
        calls = self.folder / "pip.calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def lines_of_ours(result: subprocess.CompletedProcess) -> list[str]:
    lines = result.stderr.splitlines()
    return [line for line in lines if not line.startswith("make: ***")]


def test_no_python_at_all_is_one_line(checkout):
    result = checkout.make("venv")
    assert result.returncode != 0
    assert len(lines_of_ours(result)) == 1
    assert "no Python 3.8 to 3.11" in result.stderr


def test_stubs_that_do_not_run_are_no_pythons(checkout):
    checkout.add_python("python3.11", BROKEN)
    checkout.add_python("python3", BROKEN)
    result = checkout.make("venv")
    assert result.returncode != 0
    assert len(lines_of_ours(result)) == 1
    assert not (checkout.folder / ".venv").exists()


def test_python_that_runs_is_found_behind_a_stub(checkout):
    checkout.add_python("python3.11", BROKEN)
    checkout.add_python("python3.9")
    result = checkout.make("venv")
    assert result.returncode == 0, result.stderr
    assert "python3.9" in result.stdout


def test_python_without_venv_says_what_to_install(checkout):
    checkout.add_python("python3.11", WITHOUT_VENV)
    result = checkout.make("venv")
    assert result.returncode != 0
    assert len(lines_of_ours(result)) == 1
    assert "python3-venv" in result.stderr


def test_wrong_chosen_python_is_named(checkout):
    checkout.add_python("python3.9")
    result = checkout.make("venv", PYTHON="/no/python")
    assert result.returncode != 0
    assert "/no/python" in result.stderr


def test_failing_pip_is_one_line_and_never_current(checkout):
    checkout.add_python("python3.10")
    for _ in range(2):
        result = checkout.make("venv", PIP_STATUS="1")
        assert result.returncode != 0
        assert len(lines_of_ours(result)) == 1
        assert "ERROR: no such host" in result.stderr
        assert ".venv-install.log" in result.stderr
    assert checkout.pip_calls() == 2


def test_current_environment_is_left_alone(checkout):
    checkout.add_python("python3.10")
    assert checkout.make("venv").returncode == 0
    calls = checkout.pip_calls()
    again = checkout.make("venv")
    assert again.returncode == 0
    assert again.stdout == ""
    assert checkout.pip_calls() == calls


def test_changed_setup_installs_again(checkout):
    checkout.add_python("python3.10")
    checkout.make("venv")
    calls = checkout.pip_calls()
    with open(checkout.folder / "setup.py", "a") as setup:
        setup.write("# another pin\n")
    checkout.make("venv")
    assert checkout.pip_calls() == calls + 1


def test_moved_checkout_makes_a_new_environment(checkout):
    checkout.add_python("python3.10")
    checkout.make("venv")
    checkout.folder = checkout.folder.rename(checkout.folder.parent / "moved")
    (checkout.folder / ".venv" / "old").touch()
    result = checkout.make("venv")
    assert "from" in result.stdout
    assert checkout.pip_calls() == 2


def test_ci_ends_with_the_closing_line_and_the_status(checkout):
    checkout.add_python("python3.10")
    result = checkout.run(".ci/run", CI="true")
    assert result.returncode != 0
    assert result.stdout.splitlines()[-1] == "=== 1 failed, 2 passed in 0.12s ==="
