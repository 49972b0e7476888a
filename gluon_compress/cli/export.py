"""Writes a model folder again, or the files of edge runtimes, and checks them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gluon_compress.cli.app import Command
from gluon_compress.cli.image_files import images_in
from gluon_compress.cli.options import above_0, add_devices, folder, refuse
from gluon_compress.cli.released import load_net, manifest_of
from gluon_compress.deployment.formats import CALIBRATIONS, FORMATS
from gluon_compress.printable import printable

TEXT = """Write a model folder again, or the files of edge runtimes, and check them.

  %(prog)s runs/demo/compact/model --out deploy/detector
  %(prog)s full/model --checkpoint full/best.ckpt --out deploy/best
  %(prog)s compact/model --out edge --formats mxnet onnx int8 --images photos/
  %(prog)s compact/model --out page --formats web onnx-int8 --images photos/

Without --formats the folder is a model folder, to load, train and prune; with it, a
deployed one, the folded graph for each runtime: docs/deploy.md. The format web adds a
page that runs it in a browser: docs/web.md. The folder is kept only if every file in
it runs, on --images if any, and gives what the net gives. An existing folder of
the same kind is replaced as a whole: formats are not added to it.
"""
OF_INT8 = ("calibration", "calibration_images")
CALIBRATION, COUNT = "naive", 32


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_devices(parser)
    parser.add_argument("model", metavar="MODEL", help="folder, or a released model")
    parser.add_argument("--out", type=folder, required=True, metavar="DIR")
    parser.add_argument("--name", help="beginning of file names; default: the model's")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="parameters of this net to export"
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        metavar="FORMAT",
        help=f"any of {', '.join(FORMATS)}",
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="images to check on, and to calibrate int8"
    )
    parser.add_argument(
        "--calibration",
        choices=CALIBRATIONS,
        help=f"of int8; default: {CALIBRATION}",
    )
    parser.add_argument(
        "--calibration-images",
        type=above_0,
        metavar="N",
        help=f"of int8; default: {COUNT}",
    )


def _export(args: argparse.Namespace) -> None:
    """Load, take the checkpoint's parameters, write, check, and list the files."""
    _refuse_idle(args)
    if Path(args.out).resolve() == Path(args.model).resolve():
        raise ValueError(f"--out {args.out}: is the model folder itself")
    from gluon_compress import models
    from gluon_compress.model_folder import check, read_manifest
    from gluon_compress.train.checkpoint import read_checkpoint

    net = load_net(args.model)
    if args.checkpoint:
        parameters = models.family_of(net).training_net(net).collect_params().values()
        read_checkpoint(args.checkpoint, list(parameters), averages=True)
    name = args.name or manifest_of(args.model)["name"]
    if args.formats:
        differences = _deploy(net, name, args)
    else:
        models.save(net, args.out, name)
        differences = {name: d["relative"] for name, d in check(args.out).items()}
    for output, difference in differences.items():
        print(f"{output}: differs by {difference:.1e} of its scale")
    for file, stated in read_manifest(args.out)["files"].items():
        print(f"{Path(args.out) / file}: {stated['bytes'] / 1e6:.2f} MB")


def _refuse_idle(args: argparse.Namespace) -> None:
    if not args.formats:
        refuse(args, ("images", *OF_INT8), "only with --formats")
    elif not any("int8" in name for name in args.formats):
        refuse(args, OF_INT8, "only with the format int8 or onnx-int8")


def _deploy(net: Any, name: str, args: argparse.Namespace) -> dict[str, float]:
    """Write a deployed folder; return each format's difference from the net."""
    from gluon_compress import deployment, models

    images = None
    if args.images:
        images, skipped = (
            models.family_of(net)
            .preprocess(net)
            .read(images_in(args.images), args.calibration_images or COUNT)
        )
        for reason in skipped:
            print(printable(f"skipped {reason}"))
    manifest = deployment.deploy(
        net,
        args.out,
        name,
        images=images,
        formats=args.formats,
        calibration=args.calibration or CALIBRATION,
    )
    return {name: row["difference"] for name, row in manifest["formats"].items()}


EXPORT = Command(TEXT, _add_options, _export)
