"""What a net is timed in, and the format that this takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, Sequence

# The format that a runtime is timed with: of one image, or of any batch.
FORMATS = {
    ("mxnet", "float32"): ("mxnet", "mxnet"),
    ("mxnet", "int8"): ("int8", "int8"),
    ("onnxruntime", "float32"): ("onnx", "onnx-dynamic"),
    ("onnxruntime", "int8"): ("onnx-int8", "onnx-int8"),
    ("openvino", "float32"): ("openvino", "openvino"),
    ("openvino", "int8"): ("onnx-int8", "onnx-int8"),
    ("ncnn", "float32"): ("ncnn", None),
    ("opencv", "float32"): ("onnx", None),
}


@dataclass(frozen=True)
class Setting:
    """What a net is run in."""

    runtime: str
    precision: str
    threads: int
    batch: int

    @property
    def format(self) -> str | None:
        """The format of a deployed folder, None if there is none for it."""
        pair = FORMATS.get((self.runtime, self.precision))
        return None if pair is None else pair[self.batch > 1]


def refuse_idle_images(nets: Collection[str], settings: Sequence[Setting]) -> None:
    """Raise ValueError if there is nothing that the way from images is timed with."""
    if not nets:
        raise ValueError("--images times deployed folders; none is given")
    if not any((s.threads, s.batch) == (2, 1) for s in settings):
        raise ValueError("--images needs --threads 2 and --batches 1 among others")


def formats_of(settings: Sequence[Setting]) -> list[str]:
    """Return the formats that some settings need, in a fixed order."""
    return sorted({setting.format for setting in settings})
