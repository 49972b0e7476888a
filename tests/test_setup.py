"""Drives the Makefile with stand-ins for Python and pip: no network, no install."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = sorted((ROOT / "constraints").glob("*.txt"))
TOOLS = "bash cat cksum dirname env find grep make mkdir mktemp readlink rm sed sh"

# Answers like a Python that can make environments; notes in pip.calls each time that
# pip installs this package.
# In an environment it is the same file, so $PIP_STATUS is all that it needs.
PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$4/bin" && cat "$0" >"$4/bin/python" &&
        chmod +x "$4/bin/python" ;;
    "-m pip") echo "$*" >>pip.calls
        [ "${PIP_STATUS:-0}" = 0 ] || echo "ERROR: no such host"
        exit "${PIP_STATUS:-0}" ;;
    "-m pytest") echo "=== 1 failed, 2 passed in 0.12s ==="; exit 1 ;;
    "-V "*) echo "Python 3.9.0" ;;
    "-c "*) case "$2" in *print*) echo 39 ;; esac ;;
esac
"""
BROKEN = "#!/bin/sh\necho 'command not found' >&2\nexit 127\n"
WITHOUT_VENV = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n'


class Checkout:
    """A copy of the set-up files and a PATH that holds nothing but stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "a checkout", folder / "bin"
        self.bin.mkdir()
        constraints = [f"constraints/{path.name}" for path in CONSTRAINTS]
        own = ("Makefile", "setup.py", "scripts/venv.sh", ".ci/run")
        for name in (*own, *constraints):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        for tool in (*TOOLS.split(), "chmod", "tail", "tee", "touch", "tr"):
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

    def pip_calls(self) -> list[str]:
        calls = self.folder / "pip.calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def installs(self) -> int:
        """Return how often pip has installed the package."""
        return sum(" -e " in call for call in self.pip_calls())


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
    assert not (checkout.folder / ".venv" / ".installed").exists()


def test_current_environment_is_left_alone(checkout):
    checkout.add_python("python3.10")
    assert checkout.make("venv").returncode == 0
    calls = checkout.installs()
    again = checkout.make("venv")
    assert again.returncode == 0
    assert again.stdout == ""
    assert checkout.installs() == calls


def test_changed_setup_installs_again(checkout):
    checkout.add_python("python3.10")
    checkout.make("venv")
    calls = checkout.installs()
    with open(checkout.folder / "setup.py", "a") as setup:
        setup.write("# another pin\n")
    checkout.make("venv")
    assert checkout.installs() == calls + 1


def test_changed_constraints_install_again(checkout):
    checkout.add_python("python3.10")
    checkout.make("venv")
    with open(checkout.folder / "constraints" / "py39.txt", "a") as constraints:
        constraints.write("another==1.0\n")
    checkout.make("venv")
    assert checkout.installs() == 2


def test_every_install_is_constrained_to_the_locked_versions(checkout):
    checkout.add_python("python3.9")
    assert checkout.make("venv").returncode == 0
    calls = checkout.pip_calls()
    assert " pip setuptools wheel" in calls[0]
    assert all(" --constraint constraints/py39.txt " in call for call in calls)
    assert all("--no-build-isolation" in call for call in calls if " -e " in call)


def test_environment_that_is_a_link_is_refused_and_left_alone(checkout, tmp_path):
    checkout.add_python("python3.9")
    other = tmp_path / "another environment"
    other.mkdir()
    (other / "mine").write_text("mine")
    (checkout.folder / ".venv").symlink_to(other)
    result = checkout.make("venv")
    assert result.returncode != 0
    (line,) = lines_of_ours(result)
    assert ".venv is a link" in line
    assert str(other) in line
    assert [path.name for path in other.iterdir()] == ["mine"]


def test_moved_checkout_makes_a_new_environment(checkout):
    checkout.add_python("python3.10")
    checkout.make("venv")
    checkout.folder = checkout.folder.rename(checkout.folder.parent / "moved")
    (checkout.folder / ".venv" / "old").touch()
    result = checkout.make("venv")
    assert "from" in result.stdout
    assert checkout.installs() == 2


def test_ci_ends_with_the_closing_line_and_the_status(checkout):
    checkout.add_python("python3.10")
    result = checkout.run(".ci/run", CI="true")
    assert result.returncode != 0
    assert result.stdout.splitlines()[-1] == "=== 1 failed, 2 passed in 0.12s ==="


def test_processes_share_their_bytecode_whatever_the_shell_says(checkout):
    said = '"-m pytest") echo "not written: <$PYTHONDONTWRITEBYTECODE>";'
    checkout.add_python("python3.10", PYTHON.replace('"-m pytest")', said))
    result = checkout.make("test", PYTHONDONTWRITEBYTECODE="1")
    assert "not written: <>" in result.stdout


@pytest.fixture
def web_checkout(checkout) -> Checkout:
    """Return a checkout that can install the tools of the page for browsers."""
    for name in ("scripts/web_tools.sh", "gluon_compress/deployment/web/package.json"):
        (checkout.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout.folder / name)
    for tool in ("cmp", "cp", "id"):
        (checkout.bin / tool).symlink_to(shutil.which(tool))
    return checkout


def test_missing_web_tools_are_named_in_one_line(web_checkout):
    result = web_checkout.make("web-tools")
    assert result.returncode != 0
    (line,) = lines_of_ours(result)
    assert all(name in line for name in ("chromium", "chromium-driver", "npm"))


def test_web_tools_are_installed_once_with_the_pinned_packages(web_checkout):
    npm = '#!/bin/sh\necho "$*" >>npm.calls\nexit "${NPM_STATUS:-0}"\n'
    for name in ("chromium", "chromedriver", "npm"):
        web_checkout.add_python(name, npm)
    calls = web_checkout.folder / "npm.calls"
    assert web_checkout.make("web-tools", NPM_STATUS="1").returncode != 0
    assert len(calls.read_text().splitlines()) == 1
    for _ in range(2):
        assert web_checkout.make("web-tools").returncode == 0
        assert len(calls.read_text().splitlines()) == 2
    pins = web_checkout.folder / "gluon_compress/deployment/web/package.json"
    copy = web_checkout.folder / ".web/package.json"
    assert copy.read_text() == pins.read_text()


@pytest.fixture
def requirements(monkeypatch) -> list[Requirement]:
    """Return what setup.py asks for, the dev extra included."""
    given: dict = {}
    monkeypatch.setattr("setuptools.setup", lambda **settings: given.update(settings))
    runpy.run_path(str(ROOT / "setup.py"))
    required = (*given["install_requires"], *given["extras_require"]["dev"])
    return [Requirement(line) for line in required]


def pins(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    stated = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in stated}


def test_every_supported_python_is_locked():
    names = [path.name for path in CONSTRAINTS]
    assert names == ["py310.txt", "py311.txt", "py38.txt", "py39.txt"]


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda path: path.stem)
def test_locked_versions_are_those_that_setup_allows(path, requirements):
    locked = pins(path)
    for requirement in requirements:
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier
    tools = (ROOT / "constraints" / "tools.in").read_text().splitlines()
    for requirement in (Requirement(line) for line in tools if line[0] != "#"):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier
