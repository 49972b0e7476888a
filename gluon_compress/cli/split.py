"""Lists where a net can be cut, draws that, and writes both halves."""

from __future__ import annotations

import argparse
from typing import Any

from gluon_compress.cli.app import Command
from gluon_compress.cli.image_files import images_in, refuse_other_picture
from gluon_compress.cli.options import above_0, folder, refuse
from gluon_compress.cli.released import load_net, manifest_of
from gluon_compress.printable import printable

TEXT = """List where a net can be cut, draw that, and write both halves.

  %(prog)s ssd_300_resnet50_v1d_compact_bccd --images photos/ --chart cuts.png
  %(prog)s runs/split/1_split/model --out halves
  %(prog)s runs/split/1_split/model --filter runs/split/1_split/filter.npz --out halves
  %(prog)s MODEL --at resnetv1d_layers2_relu11 --bits 4 --coding deflate --out halves

Each line is a tensor that alone crosses: what it takes in 32 and 8 bits, and the share
of the net's MACs before it. --images adds what the input takes as a JPEG of quality 95.
--out writes DIR/head and DIR/tail, for split-detect and serve. Of a net with a
bottleneck, which the algorithm "split" of a recipe puts in, the cut need not be named.
"""
BITS, CODINGS = (4, 8, 16), ("none", "deflate")
OF_HALVES = ("at", "bits", "coding", "filter", "head_formats", "tail_formats")
MEASURED = 32


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, or a released model")
    parser.add_argument(
        "--images", metavar="FOLDER", help="images to measure JPEG on, and to check on"
    )
    parser.add_argument(
        "--measured",
        type=above_0,
        metavar="N",
        help=f"how many of the images; default: {MEASURED}",
    )
    parser.add_argument("--chart", metavar="FILE", help="PNG to draw")
    parser.add_argument("--out", type=folder, metavar="DIR", help="for both halves")
    parser.add_argument("--at", help="name or number of a cut point")
    parser.add_argument("--bits", type=int, choices=BITS, help="of an integer")
    parser.add_argument("--coding", choices=CODINGS, help="of a payload; default: none")
    parser.add_argument("--filter", metavar="FILE", help="a neural filter, filter.npz")
    for part in ("head", "tail"):
        parser.add_argument(
            f"--{part}-formats",
            nargs="+",
            metavar="FORMAT",
            help=f"of the {part}; default: those of every runtime that is for it",
        )


def _split(args: argparse.Namespace) -> None:
    if args.out is None:
        refuse(args, OF_HALVES, "only with --out")
    if args.images is None:
        refuse(args, ("measured",), "only with --images")
    if args.chart is not None:
        from pathlib import Path

        refuse_other_picture(Path(args.chart))
    from gluon_compress.splitting import split

    net = load_net(args.model)
    views = None if args.images is None else _views(net, args)
    points = split(net, images=views)
    print(points)
    if args.chart is not None:
        from gluon_compress.report.split_charts import split_chart
        from gluon_compress.splitting.bottleneck import ENCODER_END

        marks = [i for i, p in enumerate(points) if p.node == ENCODER_END]
        split_chart(points, args.chart, title=args.model, marks=marks)
        print(args.chart)
    if args.out is not None:
        _write(net, views, args)


def _views(net: Any, args: argparse.Namespace) -> list:
    """Return images as the net's input shows them."""
    from gluon_compress.data.images import read_image
    from gluon_compress.models import family_of

    preprocess = family_of(net).preprocess(net)
    views: list = []
    for file in images_in(args.images):
        if len(views) == (args.measured or MEASURED):
            break
        try:
            views.append(preprocess.view(read_image(file))[0])
        except ValueError as error:
            print(printable(f"skipped {error}"))
    if not views:
        raise ValueError(f"{args.images}: no image can be read")
    return views


def _write(net: Any, views: Any, args: argparse.Namespace) -> None:
    from gluon_compress.models import family_of
    from gluon_compress.splitting import save_halves
    from gluon_compress.splitting.filtering import NeuralFilter

    settings = {
        "at": int(args.at) if args.at is not None and args.at.isdigit() else args.at,
        "bits": args.bits,
        "coding": args.coding or "none",
        "name": manifest_of(args.model)["name"],
    }
    for key in ("head_formats", "tail_formats"):
        if getattr(args, key) is not None:
            settings[key] = getattr(args, key)
    if args.filter is not None:
        settings["neural_filter"] = NeuralFilter.load(args.filter)
    if views is not None:
        settings["images"] = family_of(net).preprocess(net).fixed.inputs(views[:2])
    manifests = save_halves(net, args.out, **settings)
    stated = manifests["head"]["split"]
    shape = " x ".join(map(str, stated["tensor"]["shape"]))
    print(f"{stated['tensor']['name']}: {shape}, {stated['bits']} bits")
    for part, manifest in manifests.items():
        sizes = sum(file["bytes"] for file in manifest["files"].values())
        forms = ", ".join(manifest["formats"])
        print(f"{args.out}/{part}: {forms}; {sizes / 1e6:.2f} MB")
    print(f"pair {stated['pair']}")


SPLIT = Command(TEXT, _add_options, _split, writes=("out", "chart"))
