"""Holds the arrows between modules and the sizes that keep them readable."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "gluon_compress").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("*.py"))

ANYTHING = {"*"}
BOTTOM = {"storage", "checks"}
# What each module or package may import of the others; a new one needs a row.
ARROWS = {
    # files and values
    "storage": {"checks"},
    "checks": set(),
    "names": set(),
    "provenance": set(),
    "unpack": {"storage"},
    # from a net to a smaller one
    "graph": BOTTOM,
    "cost": {"graph"},
    "latency": {"graph", "storage", "provenance"},
    "plan": {"graph", "cost", "latency", *BOTTOM},
    "prune": {"graph", "plan", "latency"},
    # training, which does not know that pruning exists
    "recipe": BOTTOM,
    "train": {"recipe", "storage"},
    "distill": BOTTOM,
    "evaluate": set(),
    "model_folder": {"storage", "graph"},
    # images
    "data": BOTTOM,
    # what holds it together
    "models": {"checks", "graph", "cost", "plan", "prune", "distill", "model_folder"},
    "deployment": {"graph", "model_folder", "models", "data", *BOTTOM},
    "zoo": {"graph", "model_folder", "models", "provenance", *BOTTOM},
    "report": {"graph", "plan", "cost", "storage"},
    "markdown": set(),
    "cli": ANYTHING,
    "__main__": {"cli"},
    "summary": ANYTHING,
    "pipeline": ANYTHING,
    "__init__": ANYTHING,
}
# The order within a package, where there is one: no module imports a later one.
WITHIN = {
    "graph": [
        "channels",
        "names",
        "symbols",
        "context",
        "shape_rules",
        "rules",
        "groups",
        "tracing",
    ],
    "latency": ["blocks", "table", "measuring"],
    "plan": [
        "plan",
        "importance",
        "sensitivity",
        "constraints",
        "cost_model",
        "budget",
        "search",
        "selection",
        "savings",
    ],
    "prune": [
        "mask_placement",
        "slimming",
        "masks",
        "taylor_importance",
        "perturbation",
        "sensitivity",
        "recalibration",
        "iterative",
        "bn_l1",
    ],
    "train": ["checkpoint", "run", "loop"],
    "distill": ["adapters", "losses", "imitation_mask", "step"],
    "data": [
        "voc_xml",
        "images",
        "ssd_transforms",
        "imagenet_transforms",
        "classes",
        "batches",
        "recordio",
        "sets",
        "image_folder",
        "toy",
    ],
    "models": [
        "initialize",
        "lean",
        "ssd",
        "manifest",
        "head",
        "trunk",
        "mobilenet",
        "resnet",
        "classifier",
    ],
    "zoo": ["index", "weights", "get", "release"],
    "deployment": [
        "postprocess",
        "fold",
        "graph",
        "int8",
        "pad_channels",
        "runtimes",
        "formats",
        "manifest",
        "reference",
        "detection_check",
        "deploying",
        "preprocess",
        "predictor",
    ],
    "pipeline": ["job", "detection", "classification", "stages", "run"],
    "recipe": ["common", "detector", "classifier"],
    "report": [
        "boxes",
        "pictures",
        "charts",
        "training_curves",
        "tables",
        "plan_charts",
        "page",
    ],
}
USES_GLUONCV = {
    "deployment",
    "models",
    "data",
    "evaluate",
    "zoo",
    "summary",
    "pipeline",
}


def room(path: Path) -> str:
    """Return the module's name, or that of the package within that it lies in."""
    return path.relative_to(ROOT / "gluon_compress").with_suffix("").parts[0]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(source: ast.AST) -> set[str]:
    """Return the dotted names of all imports, also those inside functions."""
    names = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(source: ast.AST) -> set[str]:
    """Return which modules of the package are imported; ``*`` is the package itself."""
    dotted = [n.split(".") for n in imported(source)]
    own = [parts for parts in dotted if parts[0] == "gluon_compress"]
    return {parts[1] if len(parts) > 1 else "*" for parts in own}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def each(paths: list):
    return pytest.mark.parametrize("path", paths, ids=name_of)


@each(LIBRARY)
def test_arrows_point_down(path):
    own = room(path)
    assert own in ARROWS, f"{own} needs a row in ARROWS"
    if ARROWS[own] is not ANYTHING:
        assert rooms_imported(tree(path)) - {own} <= ARROWS[own]


@each([path for path in LIBRARY if room(path) in WITHIN])
def test_arrows_point_down_within_packages(path):
    package, own = room(path), path.stem
    if own != "__init__":
        order = WITHIN[package]
        assert own in order, f"{own} needs a place in WITHIN[{package!r}]"
        names = [n.split(".") for n in imported(tree(path))]
        used = {parts[2] for parts in names if parts[:2] == ["gluon_compress", package]}
        assert used <= set(order[: order.index(own)])


def test_arrows_make_no_circle():
    left = {room: set(to) for room, to in ARROWS.items() if to is not ANYTHING}
    while left:
        ground = [r for r, to in left.items() if not to & set(left)]
        assert ground, f"a circle among {sorted(left)}"
        for name in ground:
            del left[name]


@each(LIBRARY)
def test_imports_are_absolute(path):
    assert not {n for n in imported(tree(path)) if n.startswith(".")}


@each(LIBRARY)
def test_gluoncv_is_imported_where_it_belongs(path):
    used = any(n.split(".")[0] == "gluoncv" for n in imported(tree(path)))
    assert not used or room(path) in USES_GLUONCV


@each(LIBRARY)
def test_library_knows_neither_scripts_nor_tests(path):
    others = {p.stem for p in (*SCRIPTS, *TESTS)} | {"scripts", "tests", "pytest"}
    assert not {n.split(".")[0] for n in imported(tree(path))} & others


@each([path for path in LIBRARY if room(path) != "cli"])
def test_library_does_not_print_or_run_text(path):
    calls = [n.func for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not names & {"print", "eval", "exec"}


@each([*LIBRARY, *SCRIPTS])
def test_module_says_what_it_is_for(path):
    text = ast.get_docstring(tree(path)) or ""
    assert text.splitlines() or not path.read_text(encoding="utf-8").strip()


@each([*LIBRARY, *TESTS])
def test_annotations_are_not_run(path):
    # Python 3.8 cannot run ``int | None`` or ``list[int]``.
    annotated = any(
        isinstance(node, ast.AnnAssign)
        or (isinstance(node, ast.arg) and node.annotation)
        or (isinstance(node, ast.FunctionDef) and node.returns)
        for node in ast.walk(tree(path))
    )
    assert not annotated or "__future__.annotations" in imported(tree(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import gluon_compress.plan", {"plan"}),
        ("from gluon_compress import plan, cost as c", {"plan", "cost"}),
        ("from gluon_compress.models.ssd import build_ssd", {"models"}),
        ("def f():\n    from gluon_compress.zoo import get_model", {"zoo"}),
        ("import gluon_compress", {"*"}),
        ("import gluoncv.gluon_compress", set()),
    ],
)
def test_imports_are_found(text, expected):
    assert rooms_imported(ast.parse(text)) == expected
