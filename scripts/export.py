#!/usr/bin/env python
"""Write a model folder again, with a checkpoint's parameters if asked, and check it.

  scripts/export.py runs/demo/compact/model --out deploy/detector
  scripts/export.py full/model --checkpoint full/best.ckpt --out deploy/best

The new folder holds NAME-symbol.json, NAME-0000.params and manifest.json. It is put in
place only when a process that never saw the net has loaded it and got its outputs.
"""

from __future__ import annotations

from pathlib import Path

from common import main, parser


def arguments():
    """Return the parser of this script."""
    made = parser(__doc__)
    made.add_argument("model", metavar="MODEL_FOLDER")
    made.add_argument("--out", required=True, metavar="DIR")
    made.add_argument("--name", help="of the files; default: the model's own")
    made.add_argument(
        "--checkpoint", metavar="FILE", help="of a training of this very net"
    )
    return made


def run(args) -> None:
    """Load, take the checkpoint's parameters, export, and check once more."""
    from gluon_compress import models
    from gluon_compress.export import check, read_manifest
    from gluon_compress.models.head import head_block
    from gluon_compress.train.checkpoint import read_checkpoint

    if Path(args.out).resolve() == Path(args.model).resolve():
        raise ValueError(f"--out {args.out}: is the model folder itself")
    net = models.load(args.model)
    if args.checkpoint:
        parameters = head_block(net).collect_params().values()
        read_checkpoint(args.checkpoint, list(parameters))
    name = args.name or read_manifest(args.model)["name"]
    models.save(net, args.out, name)
    for output, difference in check(args.out).items():
        print(f"{output}: differs by {difference['relative']:.1e} of its scale")
    files = read_manifest(args.out)["files"]
    for file, facts in files.items():
        print(f"{Path(args.out) / file}: {facts['bytes'] / 1e6:.2f} MB")


if __name__ == "__main__":
    main(run, arguments())
