"""What a detector without anchors is beside its network."""

from __future__ import annotations

from dataclasses import dataclass

from gluon_compress.models.settings import check_classes
from gluon_compress.sizes import size_pair, written_size

STRIDE = 4  # pixels from one cell of the maps to the next
TRUNK_STRIDE = 32  # of the map that the neck starts from
LARGEST = 4096  # pixels a side; larger inputs are not tried
DEFAULT_SIZE = (512, 512)


@dataclass(frozen=True)
class CenterNetConfig:
    """Classes, input size and constants of decoding.

    Parameters
    ----------
    classes : tuple of str
        As ``check_classes`` takes them.
    size : tuple of int
        Height and width of the input, multiples of ``TRUNK_STRIDE`` pixels; one number
        stands for a square.
    peaks : int
        Boxes of an image that are returned.
    least_score : float
        Peaks up to this score are dropped.
    flip_test : bool
        Whether the mirrored image is looked at, too.
    """

    classes: tuple[str, ...]
    size: tuple[int, int] = DEFAULT_SIZE
    peaks: int = 100
    least_score: float = 0.01
    flip_test: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "size", size_pair(self.size))
        check_classes(self.classes)
        for side in self.size:
            whole = isinstance(side, int) and TRUNK_STRIDE <= side <= LARGEST
            if not whole or side % TRUNK_STRIDE:
                raise ValueError(
                    f"size is {written_size(self.size)!r}; allowed: multiples of "
                    f"{TRUNK_STRIDE} pixels, from {TRUNK_STRIDE} to {LARGEST}"
                )

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the maps."""
        height, width = self.size
        return height // STRIDE, width // STRIDE
