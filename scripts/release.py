#!/usr/bin/env python
"""Put a finished run into the model zoo: structure, weights, figures and a card.

  scripts/release.py runs/demo --name ssd_300_toy --licence Apache-2.0
  scripts/release.py model_zoo/ssd_300_resnet50_v1d_compact --untrained --licence MIT

Writes model_zoo/NAME and the model's row of model_zoo/index.json. Weights are stored in
float16 where the recipe's metric, measured anew with what is stored, stays within 0.1
point, otherwise in float32. With --untrained the folder holds a recipe and a plan, and
what is released is the structure they give.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from common import main, parser
from gluon_compress.provenance import ROOT
from releasing.card import card
from releasing.store import trained, untrained
from reproducing.sums import note


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("run", metavar="DIR", help="of run_pipeline.py and its like")
    made.add_argument("--name", help="of the model; default: that of DIR")
    made.add_argument("--licence", required=True, help="of the weights")
    made.add_argument("--data", metavar="DIR", help="folder that data.root is in")
    made.add_argument("--of", help="name of the data; default: data.root's last part")
    made.add_argument("--untrained", action="store_true", help="only the structure")
    made.add_argument("--zoo", default=ROOT / "model_zoo", metavar="DIR")
    return made


def run(args) -> None:
    """Store, measure what is stored, and write the row and the card."""
    from gluon_compress import zoo
    from gluon_compress.recipe import DATA_FOLDER
    from gluon_compress.storage.atomic import write_atomically

    if args.data:
        os.environ[DATA_FOLDER] = args.data
    args.name = args.name or Path(args.run).name
    with TemporaryDirectory() as place:
        entry = (untrained if args.untrained else trained)(args, Path(place))
        folder = Path(args.zoo, args.name)
        # All of it is there, and measured: only now the zoo changes.
        shutil.copytree(Path(place, args.name), folder, dirs_exist_ok=True)
    zoo.add(entry, args.zoo)
    if entry.weights:
        note(Path(args.zoo), folder / "result.json")
    write_atomically(folder / "README.md", card(entry, folder))
    print(folder)


if __name__ == "__main__":
    main(run, arguments())
