#!/usr/bin/env python
"""Put what a finished run came to where readers look: numbers, plans, pictures.

  scripts/publish.py runs/bccd --name ssd_300_resnet50_v1d_bccd

Writes model_zoo/NAME/result.json and its plans, and docs/NAME/README.md with the
pictures of the report. The tables are made from the results, none is typed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from common import main, parser
from facts import ROOT


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("run", metavar="RUN", help="DIR of run_pipeline.py")
    made.add_argument("--name", required=True, help="of the folders that are written")
    made.add_argument(
        "--root", default=ROOT, metavar="DIR", help="of the project; default: this one"
    )
    return made


def run(args) -> None:
    """Copy results, plans and pictures, and write the page."""
    from gluon_compress import files, report, summary

    source = Path(args.run)
    zoo, docs = (Path(args.root) / part / args.name for part in ("model_zoo", "docs"))
    results = files.read_json(source / "result.json")
    pictures = sorted((source / "report").glob("*.png"))
    if not pictures:
        raise ValueError(f"{source / 'report'}: no pictures; is the run finished?")
    for folder in (zoo, docs):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "result.json", zoo / "result.json")
    for plan in sorted(source.glob("*/plan.json")):
        shutil.copyfile(plan, zoo / f"plan_{plan.parent.name}.json")
    for picture in pictures:
        shutil.copyfile(picture, docs / picture.name)
    precisions = {
        name: {"mAP": stage["mAP"], **stage["classes"]}
        for name, stage in results["stages"].items()
    }
    parts = [
        f"# {args.name}",
        summary.sentence(results),
        summary.table(results),
        report.precision_table(precisions),
        f"Made from `model_zoo/{args.name}/result.json`; the recipe is beside it.",
        *(f"![{picture.stem}]({picture.name})" for picture in pictures),
    ]
    files.write_atomically(docs / "README.md", "\n\n".join(parts) + "\n")
    print(docs / "README.md")


if __name__ == "__main__":
    main(run, arguments())
