"""The process that loads exports: one for all of them, and none that stays behind."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from gluon_compress import fresh_process
from gluon_compress.fresh_process import run_export
from gluon_compress.model_folder import check, export
from test_export import SHAPE, tiny


@pytest.fixture(scope="module")
def loader():
    loader = fresh_process._Loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_process, "_LOADER", loader)
        yield loader
    loader.stop()


def test_one_process_serves_several_exports(tmp_path, loader):
    export(tiny(0), tmp_path / "first", shape=SHAPE)
    process = loader._process.pid
    export(tiny(1), tmp_path / "second", shape=SHAPE)
    assert loader._process.pid == process


def test_a_process_that_has_ended_is_replaced(tmp_path, loader):
    export(tiny(), tmp_path / "model", shape=SHAPE)
    loader._process.kill()
    loader._process.wait()
    assert max(row["relative"] for row in check(tmp_path / "model").values()) <= 1e-5


def test_files_are_found_from_another_folder(tmp_path, loader, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(tiny(), "first", shape=SHAPE)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    export(tiny(), "second", shape=SHAPE)
    assert (tmp_path / "below" / "second" / "manifest.json").is_file()


def test_what_does_not_load_is_named_and_the_process_goes_on(tmp_path, loader):
    (tmp_path / "broken.json").write_text("{}")
    np.save(tmp_path / "inputs.npy", np.zeros(SHAPE, np.float32))
    files = [str(tmp_path / name) for name in ("broken.json", "none.params")]
    ends = [str(tmp_path / name) for name in ("inputs.npy", "outputs.npz")]
    with pytest.raises(ValueError, match=r"\w+Error: .+"):
        run_export(*files, "data", *ends)
    process = loader._process.pid
    export(tiny(), tmp_path / "model", shape=SHAPE)
    assert loader._process.pid == process


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    code = (
        "from gluon_compress import fresh_process\n"
        "fresh_process._LOADER._start()\n"
        "print(fresh_process._LOADER._process.pid)"
    )
    pid = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_the_process_imports_nothing_of_this_package():
    assert "gluon_compress" not in fresh_process.LOADER
