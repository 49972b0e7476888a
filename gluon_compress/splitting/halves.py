"""Both halves of a net: what the device sends of an image, and what the server finds.

``open_head`` and ``open_tail`` open the folders that ``save_halves`` wrote. A message
comes from another machine: the second half checks every number of it before it takes
memory for any.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, Tuple

import numpy as np

from gluon_compress.data import Placement
from gluon_compress.data.images import most_pixels
from gluon_compress.deployment.formats import BATCH, formats_of
from gluon_compress.deployment.runtimes import check_form, open_files, open_stage
from gluon_compress.postprocess import POSTPROCESS, decoded
from gluon_compress.postprocess.base import FIRST
from gluon_compress.splitting import packing
from gluon_compress.splitting.manifest import (
    HeadManifest,
    SplitStatement,
    TailManifest,
    read,
)
from gluon_compress.storage.artifacts import one_state
from gluon_compress.storage.reading import finite, read_array
from gluon_compress.validation import first_line, listed, wrong

PRECISION = "float32"
LONGEST_SIDE = 1 << 20  # pixels


@dataclass(frozen=True)
class Message:
    """What one image becomes on the device.

    Parameters
    ----------
    payload : bytes
        The tensor: integers of the manifest's ``bits``, packed and coded.
    minimum, step : float
        A value is ``minimum + step * integer``.
    height, width : int
        Of the image, pixels, for boxes in its frame.
    tensor : tuple of int
        Shape of the tensor, without a batch axis.
    """

    payload: bytes
    minimum: float
    step: float
    height: int
    width: int
    tensor: Tuple[int, ...]


class Head:
    """The first half of a net, on the device; ``open_head`` returns it.

    Attributes
    ----------
    pair : str
        What both halves have in common.
    classes : tuple of str
    bits : int
        Of an integer in a message.
    coding : str
        Of a payload.
    """

    def __init__(self, manifest: HeadManifest, run: Callable) -> None:
        self._manifest, self._run = manifest, run
        self.pair, self.classes = manifest.split.pair, tuple(manifest.classes)
        self.bits, self.coding = manifest.split.bits, manifest.split.coding

    def encode(self, image: np.ndarray) -> Message | None:
        """Return what is sent of an image; None if the neural filter drops it.

        Parameters
        ----------
        image : ndarray
            ``(H, W, 3)``, uint8, RGB.

        Raises
        ------
        ValueError
            For anything but an image, or if the net does not run.
        """
        stated = self._manifest
        inputs, placement = stated.preprocess(image)
        shapes = {output.name: output.shape for output in stated.outputs}
        tensor, *scores = outputs_of(self._run, inputs, shapes).values()
        if stated.filter is not None and not _is_kept(scores[0][0], stated.filter):
            return None
        tensor = tensor[0]
        integers, minimum, step = packing.quantised(tensor, self.bits)
        payload = packing.encode(integers, self.bits, self.coding)
        size = placement.height, placement.width
        return Message(payload, minimum, step, *size, tuple(map(int, tensor.shape)))


def _is_kept(scores: np.ndarray, stated: Any) -> bool:
    """Return whether an image may have a target."""
    # What is not a number is sent.
    return not probabilities(scores[None])[0] < stated.threshold


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the probability of "some" of scores ``(B, 2)`` of "none" and "some"."""
    apart = scores[:, 0].astype(np.float64) - scores[:, 1].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return 1 / (1 + np.exp(apart))


class Tail:
    """The second half of a net, on the server; ``open_tail`` returns it.

    Attributes
    ----------
    pair : str
        What both halves have in common.
    classes : tuple of str
    bits : int
        Of an integer in a message.
    coding : str
        Of a payload.
    max_payload : int
        Bytes of the largest payload of one image.
    """

    def __init__(
        self,
        manifest: TailManifest,
        postprocess: Any,
        run: Callable,
        stages: Mapping[str, Callable],
    ) -> None:
        self._manifest, self._postprocess = manifest, postprocess
        self._run, self._stages = run, stages
        stated = manifest.split
        self.pair, self.classes = stated.pair, tuple(manifest.classes)
        self.bits, self.coding = stated.bits, stated.coding
        count = math.prod(stated.tensor.shape)
        self.max_payload = packing.most_bytes(count, stated.bits, stated.coding)

    def detect(self, messages: Sequence[Message]) -> list[tuple]:
        """Return what the whole net finds in the images of some messages.

        Returns
        -------
        list of tuple
            For each message what a ``Predictor`` returns for an image: of a detector
            ids ``(N,)``, scores ``(N,)`` and corner boxes ``(N, 4)`` in pixels of the
            image; of a classifier ids and probabilities ``(K,)``.

        Raises
        ------
        ValueError
            One line on the first message that this half cannot take, or if the net
            does not run.
        """
        if not messages:
            return []
        placements = [self.check(message) for message in messages]
        tensors = np.stack([self._tensor(message) for message in messages])
        results = self._results(tensors)
        return self._postprocess.in_images(results, placements)

    def _results(self, tensors: np.ndarray) -> tuple:
        """Return what the postprocess makes of some tensors."""
        run = partial(outputs_of, self._run, shapes=self._manifest.output_shapes)
        if not self._stages:
            return decoded(self._postprocess, run, tensors)
        # Of the images, the stages only look at the size.
        size = self._manifest.preprocess.shape[1:]
        images = np.broadcast_to(np.float32(0), (len(tensors), *size))
        stages = {FIRST: lambda inputs: run(tensors), **self._stages}
        try:
            outputs = self._postprocess.run(stages, images, together=False)
        except Exception as error:  # each runtime has its own
            raise ValueError(f"the net does not run: {first_line(error)}") from None
        return self._postprocess.decode(outputs)

    def check(self, message: Message) -> Placement:
        """Refuse a message by all that can be seen without decoding it.

        Raises
        ------
        ValueError
            One line that names what is wrong.
        """
        check_message(message, self._manifest.split)
        preprocess = self._manifest.preprocess
        return preprocess.placement(message.height, message.width)

    def _tensor(self, message: Message) -> np.ndarray:
        shape = self._manifest.split.tensor.shape
        count = math.prod(shape)
        integers = packing.decode(message.payload, count, self.bits, self.coding)
        return packing.values(integers, message.minimum, message.step).reshape(shape)


def check_message(message: Message, stated: SplitStatement) -> None:
    """Refuse a message that does not fit what a manifest states.

    Raises
    ------
    ValueError
        One line that names the field, its value and what is allowed.
    """
    if not isinstance(message, Message):
        raise wrong("a message", type(message).__name__, "Message")
    shape = tuple(stated.tensor.shape)
    if tuple(message.tensor) != shape:
        raise wrong("tensor", message.tensor, f"{list(shape)}")
    _check_scale(message.minimum, message.step, 2**stated.bits - 1)
    _check_size(message.height, message.width)
    most = packing.most_bytes(math.prod(shape), stated.bits, stated.coding)
    if not isinstance(message.payload, bytes):
        raise wrong("payload", type(message.payload).__name__, "bytes")
    if len(message.payload) > most:
        raise wrong("payload", f"of {len(message.payload)} bytes", f"at most {most}")


def _check_scale(minimum: float, step: float, largest: int) -> None:
    for name, value, least in (("minimum", minimum, -math.inf), ("step", step, 0.0)):
        if type(value) is not float or not math.isfinite(value) or value < least:
            allowed = "a finite number" + (" from 0" if name == "step" else "")
            raise wrong(name, value, allowed)
    if abs(minimum) + step * largest > float(np.finfo(np.float32).max):
        raise wrong("minimum and step", (minimum, step), "values that float32 can hold")


def _check_size(height: int, width: int) -> None:
    for name, side in (("height", height), ("width", width)):
        if type(side) is not int or not 0 < side <= LONGEST_SIDE:
            raise wrong(name, side, f"a whole number from 1 to {LONGEST_SIDE}")
    if height * width > most_pixels():
        size = f"{width} x {height} pixels"
        raise wrong("the image", size, f"at most {most_pixels()} pixels")


def outputs_of(run: Callable, batch: np.ndarray, shapes: Any) -> dict[str, np.ndarray]:
    """Return a graph's outputs for a batch by name, in the stated shapes.

    Raises
    ------
    ValueError
        If it does not run, or gives something else.
    """
    try:
        outputs = run(np.ascontiguousarray(batch, np.float32))
    except Exception as error:  # each runtime has its own
        raise ValueError(f"the net does not run: {first_line(error)}") from None
    full = {name: (len(batch), *shape[1:]) for name, shape in shapes.items()}
    sizes = [int(np.size(output)) for output in outputs]
    if sizes != [math.prod(shape) for shape in full.values()]:
        raise ValueError(f"outputs have {sizes} numbers; the manifest states {full}")
    return {
        name: np.asarray(output).reshape(shape)
        for (name, shape), output in zip(full.items(), outputs)
    }


@one_state
def open_head(
    folder: str | os.PathLike,
    *,
    runtime: str = "onnxruntime",
    threads: int | None = None,
) -> Head:
    """Open the first half of a net.

    Parameters
    ----------
    folder : path
        ``head`` in what ``save_halves`` wrote.
    runtime : str
        One of ``deployment.RUNTIMES``.
    threads : int, optional
        At least 1. Default: the runtime's own choice.

    Raises
    ------
    ValueError
        If the folder is not a first half, one of its files is missing or altered, the
        manifest is invalid, or the runtime cannot open its file.
    """
    stated = read(folder, HeadManifest)
    return Head(stated, _opened(Path(folder), stated, runtime, threads))


@one_state
def open_tail(
    folder: str | os.PathLike,
    *,
    runtime: str = "onnxruntime",
    threads: int | None = None,
) -> Tail:
    """Open the second half of a net.

    Parameters
    ----------
    folder : path
        ``tail`` in what ``save_halves`` wrote.
    runtime : str
        One of ``deployment.RUNTIMES``.
    threads : int, optional
        At least 1. Default: the runtime's own choice.

    Raises
    ------
    ValueError
        As ``open_head``.
    """
    stated = read(folder, TailManifest)
    kind = POSTPROCESS[stated.postprocess.kind]
    arrays = {}
    for name in kind.arrays:
        arrays[name] = read_array(Path(folder) / name)
        finite({"it": arrays[name]}, Path(folder) / name)
    try:
        postprocess = kind.from_state(stated.postprocess, arrays)
        postprocess.check(stated.all_shapes, stated.classes)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    run = _opened(Path(folder), stated, runtime, threads)
    entry = stated.formats[_format(folder, stated, runtime)]
    stages = {
        name: open_stage(
            runtime,
            [Path(folder) / file for file in entry.stages[name]],
            stage.input_shapes,
            tuple(stage.output_shapes),
            threads,
        )
        for name, stage in stated.stages.items()
    }
    return Tail(stated, postprocess, run, stages)


def check_pair(head: Any, tail: Any) -> None:
    """Refuse halves that do not belong together.

    Parameters
    ----------
    head, tail : Head and Tail, or anything with their ``pair``

    Raises
    ------
    ValueError
    """
    if head.pair != tail.pair:
        raise ValueError(
            f"the head is of the pair {head.pair[:12]}, the tail of {tail.pair[:12]}; "
            "allowed: halves that were written together"
        )


def _opened(folder: Path, stated: Any, runtime: str, threads: int | None) -> Callable:
    """Return ``run(batch)`` of the format that a runtime reads."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise wrong("threads", threads, "a whole number from 1")
    entry = stated.formats[_format(folder, stated, runtime)]
    check_form(runtime, entry.deformable)
    files = [folder / file for file in entry.files]
    run = open_files(runtime, files, stated.input.shape, threads)
    return run if entry.batch == BATCH else partial(_one_by_one, run)


def _format(folder: Any, stated: Any, runtime: str) -> str:
    """Return the format of a folder that a runtime reads."""
    formats = formats_of(runtime, PRECISION)
    name = next((name for name in formats if name in stated.formats), None)
    if name is None:
        raise ValueError(
            f"{folder}: {runtime} reads the format {' or '.join(formats)}; the folder "
            f"has {listed(stated.formats) or 'none'}"
        )
    return name


def _one_by_one(run: Callable, batch: np.ndarray) -> list[np.ndarray]:
    rows = [run(row[None]) for row in batch]
    return [np.concatenate(parts) for parts in zip(*rows)]


def save_halves(net: Any, folder: str | os.PathLike, **settings: Any) -> dict:
    """Write both halves of a net; see ``saving.save_halves``."""
    from gluon_compress.splitting import saving

    return saving.save_halves(net, folder, **settings)
