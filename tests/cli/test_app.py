"""How commands start and end, whatever they do."""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gluon_compress import cli
from gluon_compress.cli import app
from gluon_compress.cli.app import Command, Parser
from gluon_compress.cli.options import add_out
from gluon_compress.cli.recipes import PLAN
from gluon_compress.provenance import cores
from gluon_compress.stopping import WORDS, Terminated
from gluon_compress.storage.locks import sole_writer
from refusals import assert_refused

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))
NAMES = [path.stem for path in SCRIPTS]


def command(run) -> Command:
    return Command("Does it.", lambda parser: None, run)


def ended(capsys, run) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        command(run).main([])
    return (end.value.code or 0, *capsys.readouterr())


def raiser(error: BaseException):
    def run(_):
        raise error

    return run


# ---------------------------------------------------------------- how commands end


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("group 'a':\n  too small"), 2, "error: group 'a': too small\n"),
        (FileNotFoundError(2, "Missing", "x.txt"), 2, "error: x.txt: Missing\n"),
        (OSError("disk"), 2, "error: disk\n"),
        (ArithmeticError("the loss became nan"), 1, "error: the loss became nan\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_error_is_one_line_and_a_status(capsys, error, status, line):
    code, out, text = ended(capsys, raiser(error))
    assert (code, out) == (status, "")
    assert text.endswith(": " + line)
    assert text.count("\n") == 1


def test_success_says_nothing_of_its_own(capsys):
    assert ended(capsys, lambda _: None) == (0, "", "")


def test_own_mistakes_are_not_dressed_up_as_bad_input():
    with pytest.raises(KeyError):
        command(raiser(KeyError("x"))).main([])


def test_traceback_is_there_when_asked_for():
    with pytest.raises(ValueError, match="place"):
        command(raiser(ValueError("place"))).main(["--traceback"])


def test_ctrl_c_ends_a_process_with_130_even_if_it_comes_again(tmp_path):
    (tmp_path / "waits.py").write_text(
        # A job in the background may have been told to ignore it.
        "import atexit, signal, time\nfrom gluon_compress.cli.app import Command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def end():\n    print('ending', flush=True)\n    time.sleep(60)\n"
        "def run(_):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "atexit.register(end)\n"
        "Command('d', lambda _: None, run).main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "waits.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "waits.py: interrupted\n"


def ended_in_child(run, path: Path) -> tuple[int, str]:
    """Run a command in a forked process; return its status and standard error."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), 2)
            sys.stderr = os.fdopen(2, "w")
            for number in WORDS:  # as in a new process in the foreground
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            command(run).main([])
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status), path.read_text()


def stopper(number: int):
    def run(_):
        os.kill(os.getpid(), number)
        time.sleep(60)

    return run


@pytest.mark.parametrize(
    ("number", "word"), [(2, "interrupted"), (15, "terminated"), (1, "hung up")]
)
def test_signals_end_a_command_with_one_line(tmp_path, number, word):
    status, text = ended_in_child(stopper(number), tmp_path / "error")
    assert status == 128 + number
    assert text.endswith(f": {word}\n")
    assert text.count("\n") == 1


@pytest.mark.parametrize("at_the_end", [False, True])
def test_signal_while_handlers_are_set_or_reset_is_one_line(
    capsys, monkeypatch, at_the_end
):
    @contextlib.contextmanager
    def interrupted(_):
        if at_the_end:
            yield
        raise Terminated(signal.SIGTERM)

    monkeypatch.setattr(app, "handled", interrupted)
    status, _, error = ended(capsys, lambda _: None)
    assert status == 143
    assert error.endswith(": terminated\n")
    assert error.count("\n") == 1


def test_second_signal_does_not_wait_for_the_end_of_the_first(tmp_path):
    def run(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    status, text = ended_in_child(run, tmp_path / "error")
    assert (status, text.count("\n")) == (143, 1)


def test_signal_during_an_import_is_not_swallowed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "swallows_signals.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    os.getpid()\n"
        "except BaseException:\n    raise ImportError('odd')\n"
    )

    def run(_):
        with sole_writer(tmp_path / "run"):
            importlib.import_module("swallows_signals")

    status, text = ended_in_child(run, tmp_path / "error")
    assert (status, text.count("\n")) == (130, 1)
    assert not (tmp_path / ".run.lock").exists()


def test_full_disk_behind_standard_output_is_one_line():
    code = (
        "from gluon_compress.cli.app import Command\n"
        "Command('d', lambda _: None, lambda _: print('x')).main([])\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "-c: error: standard output: No space left on device\n"


# ---------------------------------------------------------------- two at a time


def locked_out(parser) -> None:
    parser.add_argument("--out", required=True)
    parser.add_argument("--table")


def test_folder_that_another_process_writes_is_refused(tmp_path, capsys):
    started = []
    one = Command("Does it.", locked_out, started.append)
    with sole_writer(tmp_path / "run"), pytest.raises(SystemExit) as end:
        one.main(["--out", str(tmp_path / "run")])
    assert end.value.code == 2
    assert f"{tmp_path / 'run'}: is being written by process" in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize("writes", [(), ("out",), ("out", "table")])
def test_command_is_the_sole_writer_of_what_it_says(tmp_path, writes):
    locks = []

    def run(_):
        locks.extend(sorted(path.name for path in tmp_path.iterdir()))

    one = Command("Does it.", locked_out, run, writes=writes)
    with pytest.raises(SystemExit):
        one.main(["--out", f"{tmp_path}/out", "--table", f"{tmp_path}/table"])
    assert locks == [f".{name}.lock" for name in writes]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", [None, "1"])
def test_all_cores_are_used_unless_the_environment_says_otherwise(monkeypatch, setting):
    monkeypatch.setenv("OMP_NUM_THREADS", setting or "")
    if setting is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    threads = []
    with pytest.raises(SystemExit):
        command(lambda _: threads.append(os.environ["OMP_NUM_THREADS"])).main([])
    assert threads == [setting or str(cores())]


# ---------------------------------------------------------------- every command


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_can_be_started_and_says_what_it_is_for(path, capsys):
    assert path.read_text("utf-8").startswith('#!/usr/bin/env python\n"""')
    assert os.access(path, os.X_OK)
    assert runpy.run_path(str(path))["COMMAND"].parser().format_help()


@pytest.mark.parametrize("name", NAMES)
def test_unknown_option_is_named_on_one_line(call, name):
    status, out, error = call(name, "--nonsense")
    assert (status, out) == (2, "")
    assert error.startswith(f"{name}.py: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_subcommand_shows_its_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert cli.COMMANDS[name].summary in capsys.readouterr().out


def test_help_does_not_load_mxnet():
    code = (
        "import sys, gluon_compress.cli as cli\n"
        "for name in cli.COMMANDS:\n"
        "    try:\n"
        "        cli.main([name, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "assert not {'mxnet', 'gluoncv', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_module_and_script_run_in_processes_of_their_own(tmp_path):
    script, file = SCRIPTS[NAMES.index("plan")], tmp_path / "file"
    file.touch()
    for start in (["-m", "gluon_compress", "plan"], [str(script)]):
        done = subprocess.run(
            [sys.executable, *start, "--recipe", "r.json", "--out", str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert f"'{file}' is a file" in done.stderr


def test_unknown_subcommand_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["nonsense"])
    assert end.value.code == 2
    assert "'nonsense'" in capsys.readouterr().err


# ---------------------------------------------------------------- where results go


@pytest.mark.parametrize("name", ["detect", "evaluate", "export", "benchmark"])
@pytest.mark.parametrize("below", ["", "one/two"])
def test_file_in_place_of_the_results_is_named(call, tmp_path, name, below):
    (tmp_path / "file").write_text("mine")
    given = {"detect": ["m", "i"], "evaluate": ["m", "--data", "d"], "export": ["m"]}
    refused = call(name, *given.get(name, []), "--out", tmp_path / "file" / below)
    assert_refused(refused, "--out", f"'{tmp_path / 'file'}' is a file")
    assert (tmp_path / "file").read_text() == "mine"


WRITERS = {
    "evaluate": ["m", "--data", "d"],
    "evaluate_classifier": ["m", "--data", "d"],
    "evaluate_runtimes": ["--net", "m", "e", "--data", "d"],
    "bench": ["m"],
    "benchmark": [],
    "benchmark_mxnet": [],
    "benchmark_distillation": [],
    "benchmark_data": ["--data", "d"],
    "measure_latency": ["full", "--table", "t"],
    "plan": ["--recipe", "r"],
}
OF_A_RUN = '{"stages": {}, "latency": {}, "data": {}, "seed": 0}'
OF_A_STAGE = '{"stage": "full", "mAP": 0.8, "classes": {}}'


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("content", [OF_A_RUN, OF_A_STAGE, "[1]", "no JSON"])
def test_result_of_something_else_is_not_replaced(call, tmp_path, name, content):
    (tmp_path / "result.json").write_text(content)
    refused = call(name, *WRITERS[name], "--out", tmp_path)
    assert_refused(refused, f"{tmp_path}/result.json is the result of something else")
    assert (tmp_path / "result.json").read_text() == content


def test_result_of_the_command_itself_is_replaced(tmp_path):
    (tmp_path / "result.json").write_text('{"stages": {}, "classes": 20, "date": ""}')
    options = ["--recipe", "r", "--out", str(tmp_path)]
    assert PLAN.parser().parse_args(options).out == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("plan", "plan.json"),
        ("evaluate", "precision.md"),
        ("benchmark", "benchmark.md"),
        ("benchmark", "benchmark.png"),
        ("benchmark_mxnet", "mxnet.md"),
        ("benchmark_distillation", "distillation.md"),
    ],
)
def test_files_beside_a_result_are_not_replaced_without_one(call, tmp_path, name, file):
    (tmp_path / file).write_text("mine")
    refused = call(name, *WRITERS[name], "--out", tmp_path)
    assert_refused(refused, f"{tmp_path / file} is the result of something else")
    assert (tmp_path / file).read_text() == "mine"


def test_result_that_came_before_the_lock_is_not_replaced_either(tmp_path, capsys):
    started = []

    def options(parser) -> None:
        add_out(parser, "rows")

        def writer_before_the_lock(text: str) -> str:
            (tmp_path / "result.json").write_text('{"stages": {}}')
            return text

        parser.add_argument("--last", type=writer_before_the_lock)

    with pytest.raises(SystemExit) as end:
        Command("d", options, started.append).main(
            ["--out", str(tmp_path), "--last", "x"]
        )
    assert end.value.code == 2
    assert f"{tmp_path}/result.json" in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize(
    "words", ["a b --root c", "a --root c b", "--root c a b", "--root=c a b"]
)
def test_operands_may_stand_behind_options(words):
    parser = Parser()
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--root")
    assert vars(parser.parse_args(words.split())) == {"sets": ["a", "b"], "root": "c"}
    with pytest.raises(SystemExit):
        parser.parse_args([*words.split(), "--other", "x"])


# ---------------------------------------------------------------- names of others


def test_names_in_errors_do_not_reach_the_terminal(capsys):
    for error in (ValueError("a\x1b[2J.jpg"), OSError(2, "Missing", "a\x1b[2J.jpg")):
        _, _, text = ended(capsys, raiser(error))
        assert r"a\x1b[2J.jpg" in text
        assert "\x1b" not in text


def test_names_in_output_do_not_reach_the_terminal(capsys):
    name = "a\x1b]0;b\x07.jpg"
    _, out, _ = ended(capsys, lambda _: sys.stdout.write(f"{name}: 2 objects\nc\n"))
    assert out == "a\\x1b]0;b\\x07.jpg: 2 objects\nc\n"
