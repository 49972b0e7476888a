"""What keeps the package's parts apart, as far as no linter can check it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import gluon_compress

PACKAGE = Path(gluon_compress.__file__).parent
ROOT = PACKAGE.parent


def modules() -> dict[str, ast.Module]:
    """Return every module of the package, parsed, by its path in the repository."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(module: ast.Module) -> set[str]:
    """Return the top-level names that a module imports anywhere."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_imports_keep_to_the_contracts():
    pytest.importorskip("importlinter")
    from importlinter.application.use_cases import lint_imports
    from importlinter.configuration import configure

    configure()
    # It prints the chains of imports that break a contract.
    assert lint_imports(str(ROOT / "pyproject.toml"), cache_dir=None, no_logo=True)


def test_the_package_needs_no_script_and_no_test():
    outside = {path.stem for path in (ROOT / "scripts").iterdir()}
    outside |= {path.stem for path in (ROOT / "tests").glob("*.py")}
    outside |= {"scripts", "tests"}
    offenders = {
        file: sorted(imported(module) & outside)
        for file, module in modules().items()
        if imported(module) & outside
    }
    assert offenders == {}


def test_every_class_name_means_one_thing():
    files_of_class = defaultdict(list)
    for file, module in modules().items():
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                files_of_class[node.name].append(file)
    homonyms = {name: files for name, files in files_of_class.items() if len(files) > 1}
    assert homonyms == {}
