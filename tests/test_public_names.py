"""The package's public names load on use, and nothing else takes their place."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gluon_compress as gc

PACKAGE = Path(gc.__file__).parent


def run(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def test_importing_the_package_does_not_load_mxnet():
    code = "import sys, gluon_compress.cli, gluon_compress.provenance"
    assert run(f"{code}; print('mxnet' in sys.modules)") == "False"


def test_public_names_are_the_objects_of_their_modules():
    for module, public in gc._NAMES.items():
        for name in public:
            assert getattr(gc, name) is getattr(importlib.import_module(module), name)


def test_type_checkers_see_the_same_names():
    source = (PACKAGE / "__init__.py").read_text()
    imports = re.findall(r"^    from (\S+) import (\S+) as \2$", source, re.MULTILINE)
    expected = {(m, name) for m, public in gc._NAMES.items() for name in public}
    assert set(imports) == expected


def test_no_module_takes_the_place_of_a_public_name():
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(gc.__all__)


def test_modules_are_attributes_too():
    assert gc.storage is importlib.import_module("gluon_compress.storage")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nonsense"):
        gc.nonsense  # noqa: B018


def test_dir_lists_what_is_not_loaded():
    assert set(gc.__all__) <= set(dir(gc))


def test_version_is_that_of_the_installed_package():
    assert gc.__version__ == importlib.metadata.version("gluon_compress")
