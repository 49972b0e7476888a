"""What export.py writes for edge runtimes: its options, and the deployed folder."""

from __future__ import annotations

from inputs import above_0, refuse
from places import images_in

OF_INT8 = ("calibration", "calibration_images")
CALIBRATION, COUNT = "naive", 32


def add_formats(parser) -> None:
    """Add the options that choose formats."""
    known = "mxnet, onnx, onnx-dynamic, openvino, ncnn, int8, onnx-int8"
    parser.add_argument(
        "--formats", nargs="+", metavar="FORMAT", help=f"any of {known}"
    )
    parser.add_argument("--images", metavar="FOLDER", help="to check on, and for int8")
    ways = {"choices": ("naive", "entropy"), "help": f"of int8; default: {CALIBRATION}"}
    parser.add_argument("--calibration", **ways)
    count = {"type": above_0, "metavar": "N", "help": f"of int8; default: {COUNT}"}
    parser.add_argument("--calibration-images", **count)


def refuse_idle(args) -> None:
    """Raise ValueError for an option that would do nothing."""
    if not args.formats:
        refuse(args, ("images", *OF_INT8), "only with --formats")
    elif not any("int8" in name for name in args.formats):
        refuse(args, OF_INT8, "only with the format int8 or onnx-int8")


def deployed(net, name: str, args) -> dict[str, float]:
    """Write the folder; return by how much each format differs from the net."""
    from gluon_compress import deployment
    from gluon_compress.models.family import family_of

    preprocess, images = family_of(net).preprocess(net), None
    if args.images:
        files, count = images_in(args.images), args.calibration_images or COUNT
        images, skipped = preprocess.read(files, count)
        for reason in skipped:
            print(f"skipped {reason}")
    how = {"formats": args.formats, "calibration": args.calibration or CALIBRATION}
    manifest = deployment.deploy(net, args.out, name, images=images, **how)
    return {name: facts["difference"] for name, facts in manifest["formats"].items()}
