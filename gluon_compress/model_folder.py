"""Writes and checks model folders: a symbol, its parameters and a manifest.

The manifest is plain data: everything about the kind of net (classes, constants) is
passed in as ``info``; this module does not depend on it.
"""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_compress.fresh_process import run_export
from gluon_compress.graph import block_of, pair_of
from gluon_compress.graph.symbol_files import (
    check_fit,
    output_shapes,
    read_symbol,
    read_values,
)
from gluon_compress.graph.symbols import infer_shapes, shapes_of, text_of
from gluon_compress.storage.artifacts import (
    FORMAT,
    MANIFEST,
    atomic_directory,
    checksums,
    one_state,
    read_manifest,  # noqa: F401  for readers of exports
    verified,
)
from gluon_compress.storage.atomic import scratch_folder, write_json
from gluon_compress.storage.reading import read_arrays, write_arrays
from gluon_compress.validation import shown, wrong

SYMBOL, PARAMS = "-symbol.json", "-0000.params"
Pair = Tuple[mx.sym.Symbol, Dict[str, mx.nd.NDArray]]


@dataclass(frozen=True)
class Reference:
    """An input, and the outputs of the original net for it.

    Parameters
    ----------
    inputs : ndarray
        Float32, of the exported shape except for the first axis.
    outputs : tuple of ndarray
        In the order of the symbol's outputs.
    """

    inputs: np.ndarray
    outputs: tuple[np.ndarray, ...]


def export(
    net: Any,
    folder: str | os.PathLike,
    name: str = "model",
    *,
    shape: Sequence[int],
    info: Mapping[str, Any] | None = None,
    reference: Reference | None = None,
    tolerance: float = 1e-5,
) -> dict:
    """Write an export atomically, after reloading it in a new process.

    Parameters
    ----------
    net : HybridBlock or (symbol, params)
        A net with one input.
    folder : path
        Created, or replaced if it contains an export of the same ``kind`` (see
        ``info``).
    name : str
        ``NAME-symbol.json`` and ``NAME-0000.params`` are for ``SymbolBlock.imports``
        and ``mx.model.load_checkpoint``.
    shape : sequence of int
        Shape of the input, with its batch axis.
    info : mapping, optional
        JSON-able entries of the manifest, as ``Family.manifest`` returns. Its
        ``outputs`` name the outputs.
    reference : Reference, optional
        Outputs of the Gluon net; by default those of the symbol in this process.
    tolerance : float
        Largest accepted difference, relative to the output's largest value.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    ValueError
        If a parameter is missing, not float32 or not finite, the folder contains
        anything but an export of this kind, or the reloaded net differs. Nothing is
        changed then.
    """
    check_name(name)
    with atomic_directory(folder, (info or {}).get("kind")) as draft:
        symbol, params = pair_of(net)
        stored, input_name = save_pair(symbol, params, draft, name)
        reference = reference or _symbol_reference(symbol, stored, shape)
        _save_reference(draft / f"{name}-check.npz", reference)
        manifest = _manifest(symbol, params, name, input_name, shape, info or {})
        manifest["files"] = checksums(draft)
        differences = _compare(draft, manifest, reference, tolerance)
        manifest["max_difference"] = {
            kind: max(d[kind] for d in differences.values())
            for kind in ("absolute", "relative")
        }
        write_json(draft / MANIFEST, manifest)
    return manifest


def check_name(name: str) -> None:
    """Raise ValueError for a name that some file systems refuse."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"export name {name!r}; allowed: letters, digits, '_.-'")


def save_pair(
    symbol, params: Mapping, folder: Path, name: str, *, inputs: int = 1
) -> tuple[dict, str]:
    """Write ``NAME-symbol.json`` and ``NAME-0000.params`` for ``load_checkpoint``.

    Returns the stored values by prefixed name, and the name of the first input. Raises
    ValueError if the symbol has another number of inputs besides its parameters, or one
    of these is not float32 or not finite.
    """
    stored, input_name = _prefixed(symbol, params, inputs)
    check_values(params)
    # MXNet's own ``save`` does not notice a full disk.
    path = folder / f"{name}-symbol.json"
    path.write_text(text_of(symbol), encoding="utf-8")
    mx.nd.save(str(folder / f"{name}-0000.params"), stored)
    return stored, input_name


def check_values(params: Mapping[str, mx.nd.NDArray]) -> None:
    """Raise ValueError for a parameter that is not float32, or not finite.

    Whole numbers are allowed too.
    """
    for name, value in params.items():
        kind = np.dtype(value.dtype)
        if kind.kind == "f" and kind != np.float32:
            raise ValueError(
                f"parameter {name!r} is {kind.name}; allowed: float32, to which "
                "net.cast('float32') converts a net"
            )
        if not np.isfinite(value.asnumpy()).all():
            raise ValueError(
                f"parameter {name!r} holds NaN or infinity; allowed: finite numbers"
            )


def versions(*packages: str) -> dict[str, str]:
    """Return versions for a manifest, including those of packages if installed."""
    numbers = {"mxnet": mx.__version__, "numpy": np.__version__}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            numbers[name] = metadata.version(name)
    return {**numbers, "python": platform.python_version()}


@one_state
def check(
    folder: str | os.PathLike,
    reference: Reference | None = None,
    *,
    tolerance: float = 1e-5,
) -> dict[str, dict[str, float]]:
    """Verify every file of an export, reload it in a new process and compare.

    Parameters
    ----------
    folder : path
    reference : Reference, optional
        By default the one stored in the export.
    tolerance : float
        Largest accepted difference, relative to the output's largest value.

    Returns
    -------
    dict
        For each output its largest ``absolute`` and ``relative`` difference.

    Raises
    ------
    ValueError
        If a file is missing, altered or of a newer format, or an output differs; the
        message names it.
    """
    folder = Path(folder)
    manifest = verified(folder)
    if reference is None:
        reference = _load_reference(folder, manifest)
    _load(folder, manifest)  # MXNet alone, in the new process, would believe all
    return _compare(folder, manifest, reference, tolerance)


@one_state
def load_symbol(folder: str | os.PathLike) -> Pair:
    """Return the symbol of an export, and its parameters and running statistics.

    Values that the model zoo stores in float16 are converted to float32.

    Raises
    ------
    ValueError
        If a file is missing, altered or of a newer format, holds what is not read
        from files, or does not fit the manifest; or the folder has no weights. The
        message names it.
    """
    folder = Path(folder)
    return _load(folder, verified(folder))


def _load(folder: Path, manifest: Mapping) -> Pair:
    """Return symbol and values of a folder after checking them against its manifest."""
    symbol_file, params_file = _files(folder, manifest)
    symbol, params = read_symbol(symbol_file), read_values(params_file)
    check_stated(symbol, manifest, folder)
    stated = manifest["input"]
    check_fit(
        symbol,
        {name: value.shape for name, value in params.items()},
        {stated["name"]: tuple(stated["shape"])},
        params_file,
    )
    return symbol, {k: v.astype("float32", copy=False) for k, v in params.items()}


def _files(folder: Path, manifest: Mapping) -> tuple[Path, Path]:
    """Return the files of symbol and parameters, if the manifest has their checksums.

    Raises
    ------
    ValueError
        If one of them is not in ``files`` of the manifest.
    """
    name = manifest["name"]
    if f"{name}{SYMBOL}" not in manifest["files"]:
        raise ValueError(f"{folder / MANIFEST}: files has no {name}{SYMBOL}")
    if f"{name}{PARAMS}" not in manifest["files"]:
        raise ValueError(f"{folder}: holds a structure without weights")
    return folder / f"{name}{SYMBOL}", folder / f"{name}{PARAMS}"


def check_stated(
    symbol: mx.sym.Symbol, manifest: Mapping[str, Any], folder: str | os.PathLike
) -> None:
    """Refuse a manifest whose input or outputs are not those of the symbol.

    Raises
    ------
    ValueError
        Naming manifest and key.
    """
    path, stated = Path(folder) / MANIFEST, manifest["input"]
    if stated["name"] not in symbol.list_arguments():
        raise wrong(f"{path}: input.name", stated["name"], "an input of the symbol")
    shapes = output_shapes(symbol, {stated["name"]: tuple(stated["shape"])}, path)
    written = [list(output["shape"]) for output in manifest["outputs"]]
    if written != [list(shape) for shape in shapes]:
        raise wrong(f"{path}: shapes of outputs", written, f"{shown(shapes)}")


def _prefixed(symbol, params: Mapping, count: int = 1) -> tuple[dict, str]:
    """Return parameters as ``load_checkpoint`` needs them, and the first input."""
    arguments = symbol.list_arguments()
    inputs = [name for name in arguments if name not in params]
    states = symbol.list_auxiliary_states()
    missing = [name for name in states if name not in params]
    if missing or len(inputs) != count:
        raise ValueError(
            f"the symbol needs {missing or inputs}; allowed without a value: "
            f"{'one input' if count == 1 else f'{count} inputs'}, and all else must "
            "be in the parameters"
        )
    stored = {f"arg:{n}": params[n] for n in arguments if n not in inputs}
    stored.update({f"aux:{n}": params[n] for n in states})
    return stored, inputs[0]


def _symbol_reference(symbol, stored: Mapping, shape: Sequence) -> Reference:
    inputs = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    net = block_of(symbol, {n.split(":", 1)[1]: v for n, v in stored.items()})
    outputs = net(mx.nd.array(inputs))
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return Reference(inputs, tuple(o.asnumpy() for o in outputs))


def _save_reference(path: Path, reference: Reference) -> None:
    outputs = {f"output{i}": o for i, o in enumerate(reference.outputs)}
    path.write_bytes(write_arrays({"inputs": reference.inputs, **outputs}))


def _load_reference(folder: Path, manifest: Mapping) -> Reference:
    name = f"{manifest['name']}-check.npz"
    if name not in manifest["files"]:
        raise ValueError(f"{folder / MANIFEST}: files has no {name}")
    stored = read_arrays(folder / name)
    names = ["inputs", *(f"output{i}" for i in range(len(stored) - 1))]
    if set(names) != set(stored):
        raise ValueError(f"{folder / name}: holds {shown(sorted(stored))}")
    inputs, *outputs = (stored[key] for key in names)
    shape = tuple(manifest["input"]["shape"])
    if inputs.shape[1:] != shape[1:] or inputs.dtype != np.float32:
        raise ValueError(
            f"{folder / name}: inputs are {inputs.dtype} of shape "
            f"{shown(inputs.shape)}; allowed: float32 of shape {list(shape)}"
        )
    return Reference(inputs, tuple(outputs))


def _manifest(
    symbol, params: Mapping, name: str, input_name: str, shape, info: Mapping
) -> dict:
    _, shapes = infer_shapes(symbol, {**shapes_of(params), input_name: tuple(shape)})
    names = list(info.get("outputs", symbol.list_outputs()))
    if len(names) != len(shapes):
        raise ValueError(f"outputs are named {names}, the symbol has {len(shapes)}")
    common = {
        "format": FORMAT,
        "name": name,
        "input": {"name": input_name, "shape": list(shape)},
        "outputs": [{"name": n, "shape": list(s)} for n, s in zip(names, shapes)],
    }
    family = {k: v for k, v in info.items() if k != "outputs"}
    conflicts = {*common, "files", "max_difference", "versions"} & set(family)
    if conflicts:
        raise ValueError(
            f"info holds {min(conflicts)!r}, which the manifest has itself"
        )
    return {**common, **family, "versions": versions()}


def _compare(folder: Path, manifest: Mapping, reference, tolerance: float) -> dict:
    results = _reload(folder, manifest, reference.inputs)
    names = [output["name"] for output in manifest["outputs"]]
    if not len(results) == len(reference.outputs) == len(names):
        raise ValueError(
            f"{folder}: {len(results)} outputs, the reference has "
            f"{len(reference.outputs)}, the manifest {len(names)}"
        )
    differences = {}
    for name, result, expected in zip(names, results, reference.outputs):
        difference = _difference(result, np.asarray(expected))
        differences[name] = difference
        if not difference["relative"] <= tolerance:
            raise ValueError(
                f"{folder}: output {name!r} differs from the net by "
                f"{difference['relative']:.2g} of its scale; allowed: {tolerance:g}"
            )
    return differences


def _difference(result: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    if result.shape != expected.shape:
        raise ValueError(
            f"an output has shape {result.shape}, the net's {expected.shape}"
        )
    largest = float(np.abs(result - expected).max())
    scale = float(np.abs(expected).max()) or 1.0
    return {"absolute": largest, "relative": largest / scale}


def _reload(folder: Path, manifest: Mapping, inputs: np.ndarray) -> list[np.ndarray]:
    name = manifest["name"]
    symbol, params = str(folder / f"{name}{SYMBOL}"), str(folder / f"{name}{PARAMS}")
    with scratch_folder() as scratch:
        input_file = os.path.join(scratch, "inputs.npy")
        output_file = os.path.join(scratch, "outputs.npz")
        np.save(input_file, np.asarray(inputs, np.float32))
        input_name = manifest["input"]["name"]
        try:
            run_export(symbol, params, input_name, input_file, output_file)
        except ValueError as error:
            message = f"{folder}: cannot be loaded in a new process: {error}"
            raise ValueError(message) from None
        stored = read_arrays(output_file)
        return [stored[f"arr_{i}"] for i in range(len(stored))]
