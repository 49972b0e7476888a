"""Options that several commands share, and checks of their values.

Values are checked as text, before MXNet is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Sequence

from gluon_compress.deployment.formats import PRECISIONS
from gluon_compress.deployment.runtimes import RUNTIMES
from gluon_compress.provenance import environment
from gluon_compress.storage.reading import read_json

RESULT = "result.json"
CPU = ("cpu0",)
RESIZED = ("error", "scale", "keep")  # as in data.frames
OTHERS = ("error", "ignore")  # as in data.class_choice, which imports MXNet


def above_0(text: str) -> int:
    """Return a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number from 1")
    return int(text)


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number from 0 to 1")
    return value


def folder(text: str) -> str:
    """Return the name of a folder that exists or can be created."""
    for path in (Path(text), *Path(text).parents):
        if path.exists() and not path.is_dir():
            message = f"{str(path)!r} is a file; allowed: a folder"
            raise argparse.ArgumentTypeError(message)
    return text


def refuse(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ValueError if one of these options, which have no effect, was given."""
    for name in names:
        value = getattr(args, name, None)
        if value is not None and value is not False:
            raise ValueError(f"--{name.replace('_', '-')} {value}: {why}")


def add_resized(parser: argparse.ArgumentParser) -> None:
    """Add ``--resized``."""
    parser.add_argument(
        "--resized",
        choices=RESIZED,
        help="images of another size than annotated; scale: boxes like the images; "
        "keep: boxes as written; default: error, if most images are",
    )


def add_others(parser: argparse.ArgumentParser) -> None:
    """Add ``--others``, and its earlier name ``--unknown`` with ``skip``."""
    parser.add_argument(
        "--others",
        choices=OTHERS,
        help="objects of other classes than those named; ignore: leave them out, and "
        "images without a named one; default: error",
    )
    parser.add_argument(
        "--unknown",
        dest="others",
        type=lambda text: "ignore" if text == "skip" else text,
        choices=OTHERS,
        help=argparse.SUPPRESS,
    )


# ---------------------------------------------------------------- sweeps


def add_sweep(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options that choose where independent tasks run."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--workers",
        type=above_0,
        metavar="N",
        help=f"{what} in N processes on this machine, which share its cores",
    )
    add_scheduler(place, what)
    parser.add_argument(
        "--retries",
        type=int,
        metavar="R",
        help="how often a task begins again when its process died; default: 3",
    )


def add_scheduler(parser: Any, what: str) -> None:
    """Add ``--scheduler``."""
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help=f"{what} on the workers of this Dask scheduler, tcp://HOST:8786",
    )


def sweep_of(args: argparse.Namespace) -> Any:
    """Return the ``sweeps.Sweep`` that the options of ``add_sweep`` ask for.

    Raises
    ------
    ValueError
        If a value is not allowed, or has no effect.
    """
    from gluon_compress.sweeps import Sweep

    names = ("workers", "scheduler", "retries")
    chosen = {name: getattr(args, name, None) for name in names}
    if chosen["workers"] is None and chosen["scheduler"] is None:
        refuse(args, ("retries",), "only with --workers or --scheduler")
    given = {name: value for name, value in chosen.items() if value is not None}
    return Sweep(say=partial(print, flush=True), **given)


# ---------------------------------------------------------------- devices


def devices(text: str) -> tuple[str, ...]:
    """Return the names of devices: ``gpu(0,1)`` is ``("gpu0", "gpu1")``.

    ``cpu(0,1)`` is one CPU twice, to try out several devices.
    """
    pattern = r"(cpu|gpu)(?:\((\d+(?:,\d+)*)\))?"
    match = re.fullmatch(pattern, text.replace(" ", ""))
    numbers = [int(n) for n in (match.group(2) or "0").split(",")] if match else []
    if match is None or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed: cpu, gpu, or either with numbers, gpu(0,1), each once"
        )
    return tuple(f"{match.group(1)}{number}" for number in numbers)


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add ``--ctx``."""
    parser.add_argument(
        "--ctx",
        type=devices,
        default=CPU,
        metavar="DEVICES",
        help="cpu, gpu or gpu(0,1,...); default: cpu",
    )


def contexts(names: Sequence[str]) -> tuple:
    """Return MXNet's contexts for names of devices.

    Raises
    ------
    ValueError
        If there is no such GPU.
    """
    import mxnet as mx

    if names[0].startswith("cpu"):
        return tuple(mx.cpu(int(name[3:])) for name in names)
    count = mx.context.num_gpus()
    missing = [name for name in names if int(name[3:]) >= count]
    if missing:
        raise ValueError(f"--ctx {missing[0]}: MXNet sees {count} GPUs here; use cpu")
    return tuple(mx.gpu(int(name[3:])) for name in names)


# ---------------------------------------------------------------- runtimes


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a runtime for a deployed folder."""
    parser.add_argument(
        "--runtime",
        metavar="NAME",
        help=f"of a deployed folder: {_either(list(RUNTIMES))}; "
        "default: Gluon, for a model folder",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="int8 runs in mxnet, onnxruntime and openvino, of quantised nets in ncnn "
        "too; with --runtime; default: float32",
    )
    parser.add_argument(
        "--threads",
        type=above_0,
        metavar="N",
        help="with --runtime; OMP_NUM_THREADS sets those of mxnet and Gluon",
    )
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="with --runtime: first try the folder in a process of its own, within "
        "limits of time and memory, because its files are from a stranger",
    )


def loading_options(
    args: argparse.Namespace, *, folder: str | None = ""
) -> dict[str, Any]:
    """Return the options of ``detector.load_detector``.

    Parameters
    ----------
    args : Namespace
    folder : str or None
        Of the model; by default ``args.model``. None: it is in none.

    Raises
    ------
    ValueError
        For an option without effect, or a GPU that does not exist.
    """
    if args.runtime is None:
        refuse(args, ("precision", "threads", "untrusted"), "only with --runtime")
        context = contexts(args.ctx)[0]
        if folder is not None:
            _refuse_deployed(folder or args.model)
        return {"ctx": context}
    if args.ctx != CPU:
        raise ValueError(f"--ctx {args.ctx[0]}: with --runtime only cpu")
    options = {name: getattr(args, name) for name in ("precision", "threads")}
    return {"runtime": args.runtime, "trusted": not args.untrusted, **options}


def _refuse_deployed(folder: str) -> None:
    from gluon_compress.deployment.manifest import is_deployed
    from gluon_compress.storage.artifacts import read_manifest

    manifest = read_manifest(folder)
    if is_deployed(manifest):
        runtimes = ", ".join(RUNTIMES)
        raise ValueError(
            f"{folder}: kind is {manifest['kind']!r}; give --runtime: {runtimes}"
        )


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


# ---------------------------------------------------------------- results


def add_out(
    parser: argparse.ArgumentParser,
    *keys: str,
    required: bool = True,
    files: Sequence[str] = (),
) -> None:
    """Add ``--out``, a folder for a result that has these keys, and for other files.

    A folder with another result, or with such files but no result, is refused before
    anything is measured: it belongs to a run, to another command, or to the user.
    """

    def check(text: str) -> str:
        place = Path(folder(text))
        result = place / RESULT
        candidates = [result] if result.exists() else [place / file for file in files]
        others = [path for path in candidates if path.exists()]
        if others and not set(keys) <= keys_of(result):
            allowed = "a folder without one, or with an earlier one of this command"
            message = f"{others[0]} is the result of something else; allowed: {allowed}"
            raise argparse.ArgumentTypeError(message)
        return text

    def check_again(args: argparse.Namespace) -> None:
        if args.out:
            try:
                check(args.out)
            except argparse.ArgumentTypeError as error:
                raise ValueError(f"--out: {error}") from None

    text = f"where to write {RESULT}" + (" and the rest" if required else "")
    parser.add_argument(
        "--out", type=check, required=required, metavar="DIR", help=text
    )
    parser.set_defaults(check_locked=check_again)


def keys_of(path: Path) -> set[str]:
    """Return the keys of a JSON object; none for any other file."""
    try:
        content = read_json(path)
    except ValueError:
        return set()
    return set(content) if isinstance(content, dict) else set()


def write_result(folder: str | os.PathLike, content: Mapping[str, Any]) -> Path:
    """Write ``result.json`` with content and environment; return its path."""
    from gluon_compress.storage.atomic import write_json

    path = Path(folder) / RESULT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**content, **environment()})
    return path
