#!/usr/bin/env python
"""Write a detector's model folder again, or the files of edge runtimes, and check.

  scripts/export.py runs/demo/compact/model --out deploy/detector
  scripts/export.py full/model --checkpoint full/best.ckpt --out deploy/best
  scripts/export.py compact/model --out edge --formats mxnet onnx int8 --images photos/

Without --formats the folder is a model folder, to load, train and prune; with it, a
deployed one, the folded graph for each runtime: docs/deploy.md. It is put in place when
every file of it was run, on --images if any, and gave what the net gives. A folder of
the same sort that is there is replaced whole: formats are not added to it.
"""

from __future__ import annotations

from pathlib import Path

from common import folder, main, parser
from deploying import add_formats, deployed, refuse_idle


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="MODEL_FOLDER")
    made.add_argument("--out", type=folder, required=True, metavar="DIR")
    made.add_argument("--name", help="of the files; default: the model's own")
    made.add_argument("--checkpoint", metavar="FILE", help="of this very net")
    add_formats(made)
    return made


def run(args) -> None:
    """Load, take the checkpoint's parameters, write, check, and list the files."""
    from gluon_compress import models
    from gluon_compress.model_folder import check, read_manifest
    from gluon_compress.train.checkpoint import read_checkpoint

    refuse_idle(args)
    if Path(args.out).resolve() == Path(args.model).resolve():
        raise ValueError(f"--out {args.out}: is the model folder itself")
    net = models.load(args.model)
    if args.checkpoint:
        parameters = models.family_of(net).training_net(net).collect_params().values()
        read_checkpoint(args.checkpoint, list(parameters))
    name = args.name or read_manifest(args.model)["name"]
    if args.formats:
        found = deployed(net, name, args)
    else:
        models.save(net, args.out, name)
        found = {output: d["relative"] for output, d in check(args.out).items()}
    for what, difference in found.items():
        print(f"{what}: differs by {difference:.1e} of its scale")
    for file, facts in read_manifest(args.out)["files"].items():
        print(f"{Path(args.out) / file}: {facts['bytes'] / 1e6:.2f} MB")


if __name__ == "__main__":
    main(run, arguments())
