#!/usr/bin/env python
"""Write the paper's tables: published figures, and ours beside them, never mixed.

  scripts/reproduce_tables.py             # docs/reproduce.md and README's table
  scripts/reproduce_tables.py --check     # fails if they are stale
  scripts/reproduce_tables.py --count     # first counts what the nets cost, and
                                          # notes what published.json says now

Made from files alone: model_zoo/published.json, the result files of the experiments,
and model_zoo/costs/result.json. One that is missing or altered ends the script.
"""

from __future__ import annotations

from pathlib import Path

from common import main, parser, write_result
from gluon_compress.provenance import ROOT
from reproducing import costs, plans, sums
from reproducing.page import detectors, page_of, readme_of


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("--check", action="store_true", help="only compare")
    made.add_argument("--count", action="store_true", help="costs and published.json")
    made.add_argument("--root", default=ROOT, metavar="DIR", help="of the project")
    return made


def run(args) -> None:
    """Check the results, make both texts, and write or compare them."""
    from gluon_compress.storage.atomic import read_json, write_atomically

    root = Path(args.root)
    zoo = root / "model_zoo"
    if args.count:
        counts = write_result(zoo / "costs", costs.counted(zoo))
        sums.note(zoo, counts, zoo / sums.OTHERS)
    sums.check(zoo)
    counted = read_json(zoo / "costs" / "result.json")
    plans.check(zoo, counted)
    published = read_json(zoo / sums.OTHERS)
    tables = detectors(zoo, counted, published)
    readme = root / "README.md"
    texts = {
        root / "docs" / "reproduce.md": page_of(zoo, counted, published),
        readme: readme_of(readme.read_text(encoding="utf-8"), tables),
    }
    for path, text in texts.items():
        if not args.check:
            write_atomically(path, text)
            print(path)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path}: is stale; without --check it is written")


if __name__ == "__main__":
    main(run, arguments())
