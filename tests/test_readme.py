"""Holds README and the other pages against the tree, and runs README's programs.

The commands that they show are run by ``make docs-check``, for they take minutes.
"""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path

import pytest

from tools.check_docs import commands_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = PYTHON.findall(README) + PYTHON.findall(GUIDE)


def test_readme_names_the_two_commands_and_they_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def test_guide_names_every_script_that_can_be_called():
    scripts = [
        path.name
        for path in (ROOT / "scripts").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    ]
    assert len(scripts) > 10
    assert [name for name in scripts if f"scripts/{name}" not in GUIDE] == []


def test_scripts_that_pages_name_exist():
    named = set(re.findall(r"scripts/\w+\.py", README + GUIDE))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_of_readme_and_guide_runs(number, tmp_path, monkeypatch):
    if "skimage" in SNIPPETS[number]:
        pytest.importorskip("skimage", reason="its photographs are needed")
    (tmp_path / "snippet.py").write_text(SNIPPETS[number], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path("snippet.py")


def test_pages_have_python_to_run():
    photographs = "docs/photographs.jpg" in README  # shown with an example
    assert len(SNIPPETS) == 8 + photographs


def test_commands_of_a_page_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n"
        "    make demo    # a remark\n"
        "    scripts/a.py --one \\\n      two\n"
        "    a tree/\n\n"
        "```bash\nX=1\nscripts/b.py $X\n```\n\n"
        "```python\n    scripts/c.py\n```\n"
        "\n    pip install .\n"
    )
    assert [(command.line, command.text) for command in commands_of(page)] == [
        (3, "make demo"),
        (4, "scripts/a.py --one  two"),
        (9, "X=1\nscripts/b.py $X"),
        (17, "pip install ."),
    ]
