#!/usr/bin/env python
"""Trace and prune GluonCV's classifiers and detectors, and write down how it went.

  scripts/supported_models.py
  scripts/supported_models.py --models 'resnet*' --again
  scripts/supported_models.py --check

Writes docs/supported_models.json and, from it alone, docs/supported_models.md. What the
JSON has already is left out. Two processes with other --models may share the folder.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from common import main, parser
from gluon_compress.provenance import ROOT, environment
from supported.measure import alone, measured
from supported.page import page


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--models", default="*", help="pattern of names; default: all")
    made.add_argument("--again", action="store_true", help="also what is known")
    made.add_argument("--check", action="store_true", help="only compare the page")
    made.add_argument("--out", default=ROOT / "docs", help="default: docs")
    return made


def run(args) -> None:
    """Measure what is missing, one model after the other, and write the page."""
    from gluon_compress.storage.atomic import read_json, write_atomically, write_json

    stored = Path(args.out, "supported_models.json")
    written = stored.with_suffix(".md")

    def known() -> dict:
        return read_json(stored) if stored.exists() else {}

    if args.check:
        if not written.exists() or written.read_text("utf-8") != page(known()):
            raise ValueError(f"{written}: is not what {stored.name} gives")
        return
    facts = environment()  # before the first row changes a file of the checkout
    for name, kind in chosen(args.models).items():
        if name in known().get("models", {}) and not args.again:
            continue
        result = {"kind": kind, "commit": facts["commit"], **alone(measured, name)}
        before = known()  # read again: another process may measure other models
        models = dict(sorted({**before.get("models", {}), name: result}.items()))
        write_json(stored, {**before, **facts, "models": models})
        print(name, result.get("failed") or f"{result['error']:.1e}", flush=True)
    write_atomically(written, page(known()))
    print(written)


def chosen(pattern: str) -> dict[str, str]:
    """Return the models that a pattern names, and the kind of each.

    Raises
    ------
    ValueError
        If there are none.
    """
    import supported.values  # noqa: F401  before any fork, for it takes seconds
    from supported.zoo import names

    every = names()
    fitting = {name: kind for name, kind in every.items() if fnmatchcase(name, pattern)}
    if not fitting:
        raise ValueError(f"no model is named {pattern!r}; allowed: {', '.join(every)}")
    return fitting


if __name__ == "__main__":
    main(run, arguments())
