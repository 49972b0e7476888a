"""The options that choose a runtime for a deployed folder."""

from __future__ import annotations

from inputs import above_0, refuse

RUNTIMES = "mxnet, onnxruntime, openvino, ncnn or opencv"


def add_runtime(parser) -> None:
    """Add the options that choose a runtime."""
    known = f"of a deployed folder: {RUNTIMES}; default: Gluon, for a model folder"
    parser.add_argument("--runtime", metavar="NAME", help=known)
    kinds = "float32 or int8, the latter in mxnet, onnxruntime and openvino"
    default = "with --runtime; default: float32"
    choices = ("float32", "int8")
    parser.add_argument("--precision", choices=choices, help=f"{kinds}; {default}")
    count = "with --runtime; for mxnet and Gluon OMP_NUM_THREADS says how many"
    parser.add_argument("--threads", type=above_0, metavar="N", help=count)


def refuse_idle(args) -> None:
    """Raise ValueError for an option that would do nothing."""
    if args.runtime is None:
        refuse(args, ("precision", "threads"), "only with --runtime")
    elif args.ctx != ("cpu0",):
        raise ValueError(f"--ctx {args.ctx[0]}: with --runtime only cpu")
