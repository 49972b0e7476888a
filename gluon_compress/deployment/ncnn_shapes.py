"""Shapes of the tensors of an ncnn file, to refuse what does not fit them.

ncnn takes the shape that a ``Reshape`` states, and the parts of a ``Slice``, without
looking at what there is: it then reads beyond the tensor.

Shapes are in NumPy's order, ``(C, H, W)``; None: not known.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Sequence, Tuple

from gluon_compress.storage.reading import Unreadable
from gluon_compress.validation import shown

Shape = Tuple[int, ...]
Settings = Mapping[int, Any]  # numbers, and lists of numbers, by key
Inputs = Sequence[Shape]

REST = -233  # as much as is left, or not stated
SAME = (-233, -234)  # pads that keep the size over the stride
# Old axes of width, height and channels, by the type of a Permute.
ORDERS = ("whc", "hwc", "wch", "cwh", "hcw", "chw")


def check_shapes(lines: Sequence[str], shape: Sequence[int]) -> None:
    """Refuse a ``Reshape`` to another number of elements, and a ``Slice`` of too many.

    What is not known does not fit.

    Parameters
    ----------
    lines : sequence of str
        Of layers, each checked for itself before.
    shape : sequence of int
        Of the input for one image, ``(1, C, H, W)``.

    Raises
    ------
    Unreadable
        Naming the layer.
    """
    shapes: dict[str, Shape | None] = {}
    for line in lines:
        kind, name, *rest = line.split()
        ins, outs = int(rest[0]), int(rest[1])
        inputs = [shapes[word] for word in rest[2 : 2 + ins]]
        outputs = rest[2 + ins : 2 + ins + outs]
        settings = _settings(rest[2 + ins + outs :])
        known = [each for each in inputs if each is not None]
        results: Sequence[Shape | None] = [None] * outs
        if kind == "Input":
            results = [tuple(shape[1:])] * outs if not shapes else results
        elif kind == "MemoryData":
            results = [_stored(settings)]
        elif len(known) == len(inputs):
            results = _outputs(kind, known, settings, outs)
        if kind == "Reshape":
            _check_reshape(name, inputs[0], results[0], settings)
        if kind == "Slice" and None in results:
            _refuse_parts(name, inputs[0], settings.get(0, []))
        shapes.update(zip(outputs, results))


def _settings(words: Sequence[str]) -> dict[int, Any]:
    settings: dict[int, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        number = int(key)
        if number >= 0:
            settings[number] = float(value) if "." in value else int(float(value))
        else:
            settings[-23300 - number] = [float(v) for v in value.split(",")[1:]]
    return settings


def _outputs(
    kind: str, inputs: Inputs, settings: Settings, outs: int
) -> Sequence[Shape | None]:
    if kind == "Split":
        return [inputs[0]] * outs
    if kind == "Slice":
        return _slice(inputs[0], settings, outs)
    rule = RULES.get(kind, _same)
    return [rule(inputs, settings)]


def _check_reshape(
    name: str, before: Shape | None, after: Shape | None, settings: Settings
) -> None:
    if len(_stated(settings)) < 2:
        return  # it only flattens
    if before is None or after is None or math.prod(before) != math.prod(after):
        raise Unreadable(
            f"layer {shown(name)} reshapes {_shown(before)} to "
            f"{shown(_stated(settings))}"
        )


def _refuse_parts(name: str, before: Shape | None, parts: Sequence[float]) -> None:
    if any(part != REST for part in parts):
        raise Unreadable(
            f"layer {shown(name)} splits {_shown(before)} into {shown(list(parts))}"
        )


def _shown(shape: Shape | None) -> str:
    return "what is not known" if shape is None else shown(list(shape))


def _stated(settings: Settings) -> list[int]:
    """Return the shape that a Reshape states, width first."""
    stated = [settings.get(key, REST) for key in (0, 1, 11, 2)]
    if stated[2] == REST:
        del stated[2]
    count = next((i for i, n in enumerate(stated) if n == REST), len(stated))
    return stated[:count]


def _reshape(inputs: Inputs, settings: Settings) -> Shape | None:
    before, stated = inputs[0], _stated(settings)[::-1]
    total = math.prod(before)
    if len(stated) < 2:
        return (total,)
    if 0 in stated:  # as before
        if len(before) != len(stated):
            return None
        stated = [n or old for n, old in zip(stated, before)]
    others = math.prod(n for n in stated if n != -1)
    if min(stated) < -1 or stated.count(-1) > 1 or others < 1:
        return None
    return tuple(total // others if n == -1 else n for n in stated)


def _same(inputs: Inputs, _: Settings) -> Shape | None:
    return inputs[0]


def _unknown(_: Inputs, __: Settings) -> Shape | None:
    return None


def _binary(inputs: Inputs, _: Settings) -> Shape | None:
    if len(inputs) == 1:
        return inputs[0]
    small, large = sorted(inputs, key=lambda s: (len(s), math.prod(s)))
    if len(small) == len(large):
        if any(1 not in pair and pair[0] != pair[1] for pair in zip(small, large)):
            return None
        return tuple(map(max, small, large))
    # Along the last axes, or one number for each channel.
    fits = math.prod(small) == 1 or small in ((large[0],), large[-len(small) :])
    return large if fits else None


def _window(
    side: int, kernel: int, dilation: int, stride: int, pads: tuple[int, int]
) -> int:
    if pads[0] in SAME or pads[1] in SAME:
        return -(-side // stride)
    return (side + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1


def _sides(settings: Settings, keys: tuple[int, int], default: int) -> tuple[int, int]:
    """Return a setting in height and width."""
    width = settings.get(keys[0], default)
    return settings.get(keys[1], width), width


def _pads(
    settings: Settings, keys: tuple[int, int, int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return pads of height and width, from keys of left, right, top and bottom."""
    left = settings.get(keys[0], 0)
    right, top = settings.get(keys[1], left), settings.get(keys[2], left)
    return (top, settings.get(keys[3], top)), (left, right)


def _convolution(inputs: Inputs, settings: Settings) -> Shape | None:
    if len(inputs[0]) == 1 and _sides(settings, (1, 11), 0) == (1, 1):
        return (settings[0],)  # of a global pooling, computed like a dense layer
    if len(inputs[0]) != 3:
        return None
    sides = zip(
        inputs[0][1:],
        _sides(settings, (1, 11), 0),
        _sides(settings, (2, 12), 1),
        _sides(settings, (3, 13), 1),
        _pads(settings, (4, 15, 14, 16)),
    )
    return _positive(settings[0], *(_window(*side) for side in sides))


def _depthwise(inputs: Inputs, settings: Settings) -> Shape | None:
    return _convolution(inputs, settings) if len(inputs[0]) == 3 else None


def _deconvolution(inputs: Inputs, settings: Settings) -> Shape | None:
    if len(inputs[0]) != 3 or {20, 21} & set(settings):
        return None
    more = (settings.get(19, settings.get(18, 0)), settings.get(18, 0))
    sides = zip(
        inputs[0][1:],
        _sides(settings, (1, 11), 0),
        _sides(settings, (2, 12), 1),
        _sides(settings, (3, 13), 1),
        _pads(settings, (4, 15, 14, 16)),
        more,
    )
    lengths = []
    for side, kernel, dilation, stride, pads, extra in sides:
        if pads[0] in SAME or pads[1] in SAME:
            return None
        whole = (side - 1) * stride + dilation * (kernel - 1) + 1
        lengths.append(whole + extra - sum(pads))
    return _positive(settings[0], *lengths)


def _pooling(inputs: Inputs, settings: Settings) -> Shape | None:
    if len(inputs[0]) != 3:
        return None
    channels, *sides = inputs[0]
    if settings.get(4, 0):
        return (channels,)
    if settings.get(7, 0):
        wanted = _sides(settings, (8, 18), 0)
        sides = [n if n != REST else old for n, old in zip(wanted, sides)]
        return _positive(channels, *sides)
    mode, lengths = settings.get(5, 0), []
    for side, kernel, stride, pads in zip(
        sides,
        _sides(settings, (1, 11), 0),
        _sides(settings, (2, 12), 1),
        _pads(settings, (3, 14, 13, 15)),
    ):
        reach = side + sum(pads) - kernel
        if mode in (2, 3):
            lengths.append((side - 1) // stride + 1)
        else:
            lengths.append((-(-reach // stride) if mode == 0 else reach // stride) + 1)
    return _positive(channels, *lengths)


def _positive(*sides: int) -> Shape | None:
    return tuple(sides) if min(sides) > 0 else None


def _dense(inputs: Inputs, settings: Settings) -> Shape | None:
    units = settings[0]
    if len(inputs[0]) == 2 and inputs[0][0] > 1:
        rows, width = inputs[0]
        return (rows, units) if width == settings[2] // units else None
    return (units,)


def _flatten(inputs: Inputs, _: Settings) -> Shape | None:
    return (math.prod(inputs[0]),)


def _permute(inputs: Inputs, settings: Settings) -> Shape | None:
    shape, kind = inputs[0], settings.get(0, 0)
    if len(shape) == 1:
        return shape
    if len(shape) == 2 and kind < 2:
        return shape[::-1] if kind else shape
    if len(shape) == 3 and kind < len(ORDERS):
        sides = dict(zip("chw", shape))
        return tuple(sides[axis] for axis in ORDERS[kind][::-1])
    return None


def _axis(shape: Shape, value: Any) -> int | None:
    axis = int(value)
    axis += len(shape) if axis < 0 else 0
    return axis if 0 <= axis < len(shape) else None


def _concat(inputs: Inputs, settings: Settings) -> Shape | None:
    axis = _axis(inputs[0], settings.get(0, 0))
    if axis is None:
        return None
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in inputs}
    if len(others) > 1:
        return None
    total = sum(shape[axis] for shape in inputs)
    return (*inputs[0][:axis], total, *inputs[0][axis + 1 :])


def _slice(shape: Shape, settings: Settings, outs: int) -> Sequence[Shape | None]:
    axis, parts = _axis(shape, settings.get(1, 0)), settings.get(0, [])
    if axis is None or len(parts) != outs:
        return [None] * outs
    left, results = shape[axis], []
    for i, part in enumerate(parts):
        length = left // (outs - i) if part == REST else int(part)
        left -= length
        results.append(_positive(*shape[:axis], length, *shape[axis + 1 :]))
    return results if left >= 0 else [None] * outs


def _crop(inputs: Inputs, settings: Settings) -> Shape | None:
    lists = [settings.get(key) for key in (9, 10, 11)]
    if len(inputs) > 1 or not all(isinstance(each, list) for each in lists):
        return None
    starts, ends, axes = (each or [] for each in lists)
    if not len(starts) == len(ends) == len(axes):
        return None
    shape = list(inputs[0])
    for start, end, value in zip(starts, ends, axes):
        axis = _axis(inputs[0], value)
        if axis is None:
            return None
        length = shape[axis]
        begin = int(start) + (length if start < 0 else 0)
        last = length if end == REST or end > length else int(end)
        last += length if last < 0 else 0
        shape[axis] = last - begin
        if not 0 <= begin < last:
            return None
    return tuple(shape)


def _padding(inputs: Inputs, settings: Settings) -> Shape | None:
    pairs = [(7, 8), (0, 1), (2, 3)][-len(inputs[0]) :]
    if len(inputs[0]) > 3:
        return None
    more = [sum(settings.get(key, 0) for key in pair) for pair in pairs]
    return tuple(side + added for side, added in zip(inputs[0], more))


def _interp(inputs: Inputs, settings: Settings) -> Shape | None:
    if len(inputs[0]) != 3:
        return None
    if len(inputs) == 2:
        return (inputs[0][0], *inputs[1][-2:]) if len(inputs[1]) > 1 else None
    wanted = [settings.get(key, 0) for key in (3, 4)]
    scales = [settings.get(key, 1) for key in (1, 2)]
    sides = [
        size or int(side * scale)
        for side, size, scale in zip(inputs[0][1:], wanted, scales)
    ]
    return _positive(inputs[0][0], *sides)


def _reduction(inputs: Inputs, settings: Settings) -> Shape | None:
    shape, axes = inputs[0], settings.get(3, [])
    gone = range(len(shape)) if settings.get(1, 1) else [_axis(shape, a) for a in axes]
    if settings.get(4, 0):
        return tuple(1 if i in gone else side for i, side in enumerate(shape))
    return tuple(side for i, side in enumerate(shape) if i not in gone) or (1,)


def _expand(inputs: Inputs, settings: Settings) -> Shape | None:
    shape, axes = list(inputs[0]), settings.get(3, [])
    rank = len(shape) + len(axes)
    places = sorted(int(a) + (rank if a < 0 else 0) for a in axes)
    if not places or places[0] < 0 or places[-1] >= rank or rank > 4:
        return None
    for place in places:
        shape.insert(place, 1)
    return tuple(shape)


def _squeeze(inputs: Inputs, settings: Settings) -> Shape | None:
    shape = inputs[0]
    axes = [_axis(shape, a) for a in settings.get(3, [])]
    if not axes or any(a is None or shape[a] != 1 for a in axes):
        return None
    return tuple(side for i, side in enumerate(shape) if i not in axes) or (1,)


def _pixel_shuffle(inputs: Inputs, settings: Settings) -> Shape | None:
    factor = settings.get(0, 1)
    if len(inputs[0]) != 3 or inputs[0][0] % factor**2:
        return None
    channels, height, width = inputs[0]
    return channels // factor**2, height * factor, width * factor


def _grid_sample(inputs: Inputs, settings: Settings) -> Shape | None:
    image, grid = inputs
    if len(image) != 3 or len(grid) != 3:
        return None
    sides = grid[1:] if settings.get(3, 0) else grid[:2]
    return image[0], *sides


def _stored(settings: Settings) -> Shape | None:
    sides = [settings.get(key, 0) for key in (2, 11, 1, 0)]
    return _positive(*[side for side in sides if side]) if any(sides) else None


RULES: dict[str, Callable[[Inputs, Settings], Shape | None]] = {
    "Convolution": _convolution,
    "ConvolutionDepthWise": _depthwise,
    **dict.fromkeys(("Deconvolution", "DeconvolutionDepthWise"), _deconvolution),
    **dict.fromkeys(("Reorg", "Tile"), _unknown),
    "BinaryOp": _binary,
    "Concat": _concat,
    "Crop": _crop,
    "ExpandDims": _expand,
    "Flatten": _flatten,
    "GridSample": _grid_sample,
    "InnerProduct": _dense,
    "Interp": _interp,
    "Padding": _padding,
    "Permute": _permute,
    "PixelShuffle": _pixel_shuffle,
    "Pooling": _pooling,
    "Reduction": _reduction,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
}
