"""Checks files of edge runtimes before the runtimes parse them.

A checksum that matches is not trust: whoever made the folder made the checksum too.
These checks refuse what leads out of the folder, what states more than the file holds,
and what makes a runtime end the process. They do not replace the runtimes' own; see
``trial`` for files of strangers.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence, Union
from xml.etree import ElementTree

from gluon_compress.deployment.ncnn_shapes import check_shapes
from gluon_compress.storage.reading import Unreadable, read_bytes
from gluon_compress.validation import shown

MOST_BYTES = 1 << 31
MOST_TEXT = 1 << 24
MOST_ELEMENTS = 1 << 28  # of one tensor


# Of the one input, or of each by name.
Shapes = Union[Sequence[int], Mapping[str, Sequence[int]]]


def check_files(files: Sequence[Path], shape: Shapes) -> None:
    """Refuse files that their runtime should not open.

    Parameters
    ----------
    files : sequence of path
        Of one format, in its order.
    shape : sequence of int, or mapping
        Of the input for one image; by name if there are several.

    Raises
    ------
    ValueError
        Naming the file and the place.
    """
    for ending, check in CHECKS.items():
        if files[0].name.endswith(ending):
            try:
                check(files, shape)  # type: ignore[arg-type]
            except Unreadable as error:
                raise ValueError(f"{files[0]}: {error}") from None


# ------------------------------------------------------------------- MXNet


def _mxnet(files: Sequence[Path], shape: Shapes) -> None:
    from gluon_compress.deployment import int8, quantised_packed
    from gluon_compress.graph.symbol_files import check_fit, read_symbol, read_values

    stem = str(files[0])[: -len("-symbol.json")]
    if stem.endswith("-int8"):
        symbol, params = int8.load(Path(stem))
    elif stem.endswith("-packed"):
        symbol, params = quantised_packed.load(*files)
    else:
        symbol, params = read_symbol(files[0]), read_values(files[1])
    shapes = {name: value.shape for name, value in params.items()}
    inputs = [name for name in symbol.list_arguments() if name not in params]
    stated = shape if isinstance(shape, Mapping) else dict.fromkeys(inputs, shape)
    check_fit(symbol, shapes, {n: tuple(s) for n, s in stated.items()}, files[1])


# ------------------------------------------------------------------- ONNX

# Field numbers of ONNX's protocol buffers.
_GRAPH, _NODE, _INITIALIZER, _OUTPUT, _NAME = 7, 1, 5, 12, 1
_OP, _ATTRIBUTE, _DOMAIN = 4, 5, 7
_TENSORS, _INTEGERS = (5, 10), (3, 8)  # of an attribute
# Numbers that some runtime divides by, or does not check.
_ONNX_RANGES: Dict[bytes, tuple[int, int]] = {
    **dict.fromkeys((b"strides", b"dilations", b"kernel_shape"), (1, 1 << 12)),
    **dict.fromkeys((b"pads", b"output_padding"), (0, 1 << 12)),
    **dict.fromkeys((b"group", b"blocksize", b"num_groups"), (1, 1 << 20)),
}
_REFUSED: Dict[str, Dict[int, str]] = {
    "model": {20: "training", 25: "functions"},
    "graph": {15: "sparse tensors"},
    "attribute": {6: "a graph", 11: "graphs", 22: "sparse tensors", 23: "the same"},
    "tensor": {3: "a segment", 6: "texts", 13: "data in another file"},
}
_DIMS, _DATA_TYPE, _RAW, _LOCATION = 1, 2, 9, 14
_BYTES: Dict[int, float] = {
    2: 1,
    3: 1,
    9: 1,
    4: 2,
    5: 2,
    10: 2,
    1: 4,
    6: 4,
    12: 4,
    7: 8,
    11: 8,
    13: 8,
    22: 0.5,  # two integers of 4 bits in a byte
}


def _onnx(files: Sequence[Path], shape: Sequence[int]) -> None:
    data = memoryview(read_bytes(files[0], MOST_BYTES))
    graphs = [part for number, part in _message(data, "model") if number == _GRAPH]
    if len(graphs) != 1:
        raise Unreadable(f"holds {len(graphs)} graphs; allowed: one")
    for number, part in _message(graphs[0], "graph"):
        if number == _NODE:
            _check_node(part)
        elif number == _INITIALIZER:
            _check_tensor(part)


def onnx_outputs(file: Path) -> list[str]:
    """Return the names of the outputs of an ONNX file, in the file's order."""
    data = memoryview(read_bytes(file, MOST_BYTES))
    return [
        bytes(name).decode()
        for field, graph in _message(data, "model")
        if field == _GRAPH
        for number, output in _message(graph, "graph")
        if number == _OUTPUT
        for inner, name in _message(output, "output")
        if inner == _NAME
    ]


def _check_node(node: Any) -> None:
    for number, part in _message(node, "node"):
        if number == _DOMAIN and bytes(part) not in (b"", b"ai.onnx"):
            raise Unreadable(f"an operator of domain {shown(bytes(part))}")
        if number == _ATTRIBUTE:
            _check_attribute(part)


def _check_attribute(attribute: Any) -> None:
    name, numbers = b"", []
    for number, value in _message(attribute, "attribute"):
        if number in _TENSORS:
            _check_tensor(value)
        elif number == _NAME and isinstance(value, memoryview):
            name = bytes(value)
        elif number in _INTEGERS:
            numbers += [value] if isinstance(value, int) else list(_varints(value))
    least, most = _ONNX_RANGES.get(name, (0, math.inf))
    if not all(least <= n <= most for n in numbers):
        raise Unreadable(
            f"{shown(name)} is {shown(numbers)}; allowed: {least} to {most}"
        )


def _check_tensor(tensor: Any) -> None:
    dims, kind, raw = [], 0, None
    for number, value in _message(tensor, "tensor"):
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == _DATA_TYPE:
            kind = value
        elif number == _RAW:
            raw = len(value)
        elif number == _LOCATION and value != 0:
            raise Unreadable("a tensor with data in another file")
    size = math.prod(dims)
    if kind not in _BYTES or size * min(_BYTES[kind], 1) > len(tensor):
        raise Unreadable(f"a tensor of type {shown(kind)} and shape {shown(dims)}")
    if raw is not None and raw != math.ceil(size * _BYTES[kind]):
        raise Unreadable(f"a tensor of shape {shown(dims)} with {raw} bytes")


def _message(data: Any, kind: str) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message: numbers as int, others as memoryview."""
    if not isinstance(data, memoryview):
        raise Unreadable(f"no {kind} where one should be")
    refused, place = _REFUSED.get(kind, {}), 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if number in refused:
            raise Unreadable(f"a {kind} with {refused[number]}")
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise Unreadable(f"no {kind} of ONNX")
        if length > len(data) - place:
            raise Unreadable(f"cut short in a {kind}")
        yield number, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if place + i >= len(data):
            raise Unreadable("cut short")
        value |= (data[place + i] & 127) << 7 * i
        if data[place + i] < 128:
            return value, place + i + 1
    raise Unreadable("a number of more than 64 bits")


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


# ------------------------------------------------------------------- OpenVINO

_NESTED = {"body", "then_body", "else_body", "port_map", "back_edges"}
# Numbers of convolutions and poolings, and the least of them.
_WINDOW = {"strides": 1, "dilations": 1, "kernel": 1}
_WINDOW.update(pads_begin=0, pads_end=0, output_padding=0)
_BITS = {"u1": 1, "i4": 4, "u4": 4, "boolean": 8, "i8": 8, "u8": 8, "bf16": 16}
_BITS.update({f"{kind}{bits}": bits for kind in "fiu" for bits in (16, 32, 64)})


def _openvino(files: Sequence[Path], shape: Sequence[int]) -> None:
    content = read_bytes(files[0], MOST_TEXT)
    if b"<!" in content.replace(b"<!--", b""):
        raise Unreadable("declares a document type")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable(f"not XML: {shown(str(error))}") from None
    if root.tag != "net" or root.get("version") not in ("10", "11"):
        raise Unreadable(
            f"is {shown(root.tag)} of version {shown(root.get('version'))}"
        )
    size, numbers = files[1].stat().st_size, set()
    for element in root.iter():
        if element.tag in _NESTED:
            raise Unreadable(f"holds a {element.tag}, a graph within the graph")
        if element.tag == "layer":
            numbers.add(_whole(element.get("id"), 0, 1 << 20, "the id of a layer"))
            _check_layer(element, size)
        elif element.tag == "port":
            _check_port(element)
        elif element.tag == "edge":
            _check_edge(element, numbers)


def _check_port(port: ElementTree.Element) -> None:
    dims = [_whole(dim.text, -1, 1 << 31, "a dim") for dim in port.findall("dim")]
    if math.prod(abs(n) for n in dims) > MOST_ELEMENTS:
        raise Unreadable(f"a port of shape {shown(dims)}")


def _check_edge(edge: ElementTree.Element, numbers: set[int]) -> None:
    for key in ("from-layer", "to-layer"):
        if _whole(edge.get(key), 0, 1 << 20, key) not in numbers:
            raise Unreadable(f"an edge whose {key} is {edge.get(key)}")


def _check_layer(layer: ElementTree.Element, size: int) -> None:
    name, data = shown(layer.get("name")), layer.find("data")
    if not re.fullmatch(r"opset\d{1,2}", layer.get("version") or ""):
        raise Unreadable(f"layer {name} is of version {shown(layer.get('version'))}")
    stated = data.attrib if data is not None else {}
    for key, least in _WINDOW.items():
        for text in filter(None, stated.get(key, "").split(",")):
            _whole(text, least, _PAD[1], f"{key} of {name}")
    if layer.get("type") != "Const":
        return
    bits = _BITS.get(stated.get("element_type", ""), 0)
    texts = [t for t in stated.get("shape", "").split(",") if t.strip()]
    dims = [_whole(text, 0, 1 << 31, f"shape of {name}") for text in texts]
    begin, length = (
        _whole(stated.get(k), 0, MOST_BYTES, k) for k in ("offset", "size")
    )
    if begin + length > size or not bits or (math.prod(dims) * bits + 7) // 8 != length:
        raise Unreadable(
            f"layer {name}: {length} bytes at {begin} are no {shown(dims)}"
        )


def _whole(text: Any, least: int, most: int, place: str) -> int:
    if not re.fullmatch(r"\s*-?\d{1,12}\s*", text or ""):
        raise Unreadable(f"{place} is {shown(text)}; allowed: a whole number")
    if not least <= int(text) <= most:
        raise Unreadable(f"{place} is {int(text)}; allowed: {least} to {most}")
    return int(text)


# ------------------------------------------------------------------- ncnn

_NCNN_MAGIC = "7767517"
_NCNN_MOST = 1 << 20  # of a number in a layer that is no size of weights
_NCNN_LAYERS = {  # without weights
    *("Input", "Split", "BinaryOp", "UnaryOp", "Eltwise", "ReLU", "Reshape", "Flatten"),
    *("Permute", "Concat", "Pooling", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"),
    *("Dropout", "Softmax", "Slice", "Crop", "Padding", "Interp", "Noop", "TanH"),
    *("ELU", "Swish", "Reduction", "ExpandDims", "Squeeze", "Mish", "GELU", "LRN"),
    *("AbsVal", "ShuffleChannel", "PixelShuffle", "Reorg", "Softplus", "SELU"),
    *("CELU", "Erf", "Exp", "Log", "Power", "Threshold", "Tile", "GridSample"),
}
_NCNN_SAME = {  # of those: as many channels as the first input
    *("Split", "BinaryOp", "UnaryOp", "Eltwise", "ReLU", "Pooling", "Clip", "Sigmoid"),
    *("HardSigmoid", "HardSwish", "Dropout", "Interp", "Noop", "TanH", "ELU", "Swish"),
    *("Mish", "GELU", "LRN", "AbsVal", "Input", "Softplus", "SELU", "CELU", "Erf"),
    *("Exp", "Log", "Power", "Threshold", "GridSample"),
}
_NCNN_CHANNELWISE = {"PReLU": 1, "BatchNorm": 4, "Scale": 1}  # arrays of weights
_CONVOLUTIONS = {
    f"{kind}{depth}"
    for kind in ("Convolution", "Deconvolution")
    for depth in ("", "DepthWise")
}
_SIDE, _NONE = (1, 1 << 12), (0, 0)
_PAD, _AXIS, _FACTOR = (0, 1 << 12), (-4, 3), (1, 64)
# Least and most, by the key of a number or list: ncnn does not check them.
_NCNN_RANGES: Dict[str, Dict[int, tuple[float, float]]] = {
    **{
        kind: {
            **dict.fromkeys((1, 11, 2, 12, 3, 13), _SIDE),
            **dict.fromkeys((4, 14, 15, 16), (-234, _PAD[1])),
            9: (0, 6),
            **(
                {28: _NONE, **dict.fromkeys((18, 19, 20, 21), _PAD)}
                if kind.startswith("De")
                else {19: _NONE}
            ),
        }
        for kind in _CONVOLUTIONS
    },
    "InnerProduct": {9: (0, 6)},
    "Pooling": {
        **dict.fromkeys((0, 4, 7), (0, 1)),
        **dict.fromkeys((1, 11, 3, 13, 14, 15), _PAD),
        **dict.fromkeys((2, 12, 8, 18), _SIDE),
        5: (0, 3),
    },
    "Interp": {0: (1, 3), 1: (1 / 64, 64), 2: (1 / 64, 64), 3: _PAD, 4: _PAD},
    "Padding": {**dict.fromkeys((0, 1, 2, 3, 7, 8), _PAD), 4: (0, 2)},
    "PixelShuffle": {0: _FACTOR},
    "Reorg": {0: _FACTOR},
    "ShuffleChannel": {0: _SIDE},
    "Tile": {0: (0, 3), 1: _FACTOR, 2: _FACTOR},
    "LRN": {0: (0, 1), 1: _SIDE},
    "Permute": {0: (0, 23)},
    "BinaryOp": {0: (0, 11), 1: (0, 1)},
    "UnaryOp": {0: (0, 19)},
    "Eltwise": {0: (0, 2)},
    "Reduction": {0: (0, 10), 3: _AXIS},
    "Slice": {1: _AXIS},
    **{kind: {0: _AXIS} for kind in ("Softmax", "Concat")},
    **{kind: {3: _AXIS} for kind in ("Squeeze", "ExpandDims")},
}
# How many inputs, if not one; ncnn reads those that its kind has.
_NCNN_INPUTS = {
    **dict.fromkeys(("Input", "MemoryData"), (0, 0)),
    **dict.fromkeys(("BinaryOp", "Crop", "Interp"), (1, 2)),
    "GridSample": (2, 2),
    "Concat": (1, 1000),
    "Eltwise": (2, 1000),
}
_NCNN_PARTS = ("Split", "Slice")  # have more outputs than one
_NCNN_ACTIVATIONS = {2: 1, 3: 2, 6: 2}  # and how many numbers they need


def _ncnn(files: Sequence[Path], shape: Sequence[int]) -> None:
    try:
        lines = read_bytes(files[0], MOST_TEXT).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise Unreadable("not ASCII text") from None
    if len(lines) < 3 or lines[0].strip() != _NCNN_MAGIC:
        raise Unreadable(f"begins with {shown(lines[:1])}; allowed: {_NCNN_MAGIC}")
    counts = [_whole(text, 1, 1 << 20, "a count") for text in lines[1].split()]
    channels: dict[str, int | None] = {}
    read: set[str] = set()
    size = sum(
        check_ncnn_layer(line.split(), channels, read, shape) for line in lines[2:]
    )
    if counts != [len(lines) - 2, len(channels)]:
        raise Unreadable(f"{counts} layers and blobs are stated, others are there")
    if size != files[1].stat().st_size:
        raise ValueError(f"{files[1]}: the layers need {size} bytes")
    check_shapes(lines[2:], shape)


def check_ncnn_layer(
    words: Sequence[str],
    channels: dict[str, int | None],
    read: set[str],
    shape: Sequence[int],
) -> int:
    """Check a layer, note the channels of its outputs, return its bytes of weights."""
    if len(words) < 4 or max(map(len, words)) > 200:
        raise Unreadable(f"layer {shown(words[:2])}")
    kind, place = words[0], f"layer {shown(words[1])}"
    ins, outs = (_whole(text, 0, 1000, f"{place}: a count") for text in words[2:4])
    inputs, outputs = words[4 : 4 + ins], words[4 + ins : 4 + ins + outs]
    least, most = _NCNN_INPUTS.get(kind, (1, 1))
    few = not outs or (outs > 1 and kind not in _NCNN_PARTS)
    if len(inputs) + len(outputs) < ins + outs or few or not least <= ins <= most:
        raise Unreadable(f"{place} ({kind}) has {ins} inputs and {outs} outputs")
    for name in inputs:
        if name not in channels or name in read:
            raise Unreadable(f"{place} reads {shown(name)}, which is not there")
        read.add(name)
    settings = words[4 + ins + outs :]
    numbers = ncnn_numbers(settings, place, _NCNN_RANGES.get(kind, {}))
    before = channels[inputs[0]] if inputs else shape[1]
    _check_lists(kind, numbers, _lists(settings), (ins, outs), place)
    weights, after = _ncnn_weights(kind, numbers, before, place)
    for name in outputs:
        if name in channels:
            raise Unreadable(f"{place} makes {shown(name)} again")
        channels[name] = after
    return weights


def _lists(words: Sequence[str]) -> dict[int, list[float]]:
    """Return the lists of a layer, which are checked, by the keys of their numbers."""
    pairs = (word.split("=") for word in words if word.startswith("-"))
    return {
        -23300 - int(key): [float(text) for text in value.split(",")[1:]]
        for key, value in pairs
    }


def _check_lists(
    kind: str,
    numbers: Mapping[int, int],
    lists: Mapping[int, Sequence[float]],
    counts: tuple[int, int],
    place: str,
) -> None:
    """Refuse a layer that reads beyond its lists or inputs."""
    ins, outs = counts
    layers = {*_CONVOLUTIONS, "InnerProduct"}
    needed = _NCNN_ACTIVATIONS.get(numbers.get(9, 0), 0) if kind in layers else 0
    if len(lists.get(10, ())) < needed:
        raise Unreadable(f"{place} needs {needed} numbers for its activation")
    if kind == "BinaryOp" and ins == 1 and numbers.get(1, 0) == 0:
        raise Unreadable(f"{place} has one input and no number")
    if kind == "Slice" and len(lists.get(0, ())) != outs:  # sizes: ncnn_shapes
        raise Unreadable(f"{place} splits into {shown(list(lists.get(0, ())))}")


def ncnn_numbers(
    words: Sequence[str],
    place: str,
    ranges: Mapping[int, tuple[float, float]] | None = None,
) -> dict[int, int]:
    """Return the whole numbers of a layer by their keys, after checking all.

    Parameters
    ----------
    words : sequence of str
        ``key=value`` each.
    place : str
        Errors start with it.
    ranges : mapping, optional
        Least and most of what has a key, alone or in a list.
    """
    numbers: dict[int, int] = {}
    for word in words:
        key, _, value = word.partition("=")
        number = _whole(key, -23400, 31, f"{place}: a key")
        index = number if number >= 0 else -23300 - number
        if number < 0:
            count, *values = value.split(",")
            if not -23331 <= number <= -23300 or _whole(
                count, 0, 1000, f"{place}: {key}"
            ) != len(values):
                raise Unreadable(f"{place}: {shown(word)}")
        else:
            values = [value]
        for text in values:
            if not re.fullmatch(r"-?\d{1,10}(\.\d{1,20})?(e[+-]?\d{1,2})?", text):
                raise Unreadable(f"{place}: {shown(word)}")
            least, most = (ranges or {}).get(index, (-math.inf, math.inf))
            if not least <= float(text) <= most:
                allowed = f"{least:g} to {most:g}"
                raise Unreadable(f"{place}: {shown(word)}; allowed: {allowed}")
            if "." not in text and "e" not in text:
                _whole(text, -(1 << 31), (1 << 31) - 1, f"{place}: {key}")
                numbers[number] = int(text)
    return numbers


def _ncnn_weights(
    kind: str, numbers: Mapping[int, int], before: int | None, place: str
) -> tuple[int, int | None]:
    """Return the bytes of a layer's weights, and the channels of its outputs."""
    if kind in _CONVOLUTIONS:
        return _ncnn_convolution(kind, numbers, before, place)
    get, large = numbers.get, _large(numbers, 2 if kind == "InnerProduct" else None)
    if large and kind != "Crop":
        raise Unreadable(f"{place}: {shown(large)}")
    if kind == "InnerProduct":
        units, weights = get(0, 0), get(2, 0)
        if min(units, weights) < 1 or weights % units or get(8, 0) not in (0, 2):
            raise Unreadable(f"{place}: no dense layer has {shown(dict(numbers))}")
        bias = 4 * units * (get(1, 0) == 1)
        return _ncnn_stored(weights, units if get(8, 0) else 0) + bias, None
    if kind in _NCNN_CHANNELWISE:
        count = get(0, 0)
        if count < 1 or (before is not None and count not in (1, before)):
            raise Unreadable(f"{place} has {count} channels of {before}")
        arrays = _NCNN_CHANNELWISE[kind] + (kind == "Scale" and get(1, 0) == 1)
        return 4 * arrays * count, before
    if kind == "Interp" and get(3, 0) * get(4, 0) > _NCNN_MOST:
        raise Unreadable(f"{place} enlarges to {get(4, 0)} x {get(3, 0)}")
    if kind == "MemoryData":
        return 4 * math.prod(max(get(key, 0), 1) for key in (0, 1, 11, 2)), None
    if kind not in _NCNN_LAYERS:
        raise Unreadable(f"{place} is of type {shown(kind)}, which is not loaded")
    return 0, before if kind in _NCNN_SAME else None


def _ncnn_convolution(
    kind: str, numbers: Mapping[int, int], before: int | None, place: str
) -> tuple[int, int]:
    get = numbers.get
    filters, kernel, groups, weights = get(0, 0), get(1, 0), get(7, 1), get(6, 0)
    area = kernel * get(11, kernel)
    steps = (get(2, 1), get(12, 1), get(3, 1), get(13, 1))
    positive = min(filters, kernel, area, groups, weights, *steps) > 0
    if not positive or filters % groups or weights % (filters * area):
        raise Unreadable(f"{place}: no convolution has {shown(dict(numbers))}")
    reads = weights // (filters * area) * groups
    if before is not None and reads != before:
        raise Unreadable(f"{place} reads {reads} channels of {before}")
    term = get(8, 0)  # of scales for int8
    if _large(numbers, 6) or term not in (0, 1 if kind.endswith("Wise") else 2):
        raise Unreadable(f"{place}: {shown(dict(numbers))}")
    bias = 4 * filters * (get(5, 0) == 1)
    scales = (groups if kind.endswith("Wise") else filters) if term else 0
    return _ncnn_stored(weights, scales) + bias, filters


def _ncnn_stored(weights: int, scales: int) -> int:
    """Return the bytes of weights: float32, or with scales int8 and the input's too."""
    if not scales:
        return 4 + 4 * weights
    return 4 + -(-weights // 4) * 4 + 4 * scales + 4


def _large(numbers: Mapping[int, int], size: int | None) -> dict[int, int]:
    """Return numbers that are too large for anything but a size of weights."""
    return {k: n for k, n in numbers.items() if abs(n) > _NCNN_MOST and k != size}


CHECKS: Dict[str, Callable[[Sequence[Path], Sequence[int]], None]] = {
    "-symbol.json": _mxnet,
    ".onnx": _onnx,
    ".xml": _openvino,
    ".ncnn.param": _ncnn,
}
