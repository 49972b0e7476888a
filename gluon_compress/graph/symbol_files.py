"""Reads symbol files of others: MXNet sees only what was checked here.

MXNet believes a symbol file: some operators take an address from it, others read files
or run Python, and a number out of range reads beyond an array. So operators must be of
a list, every node must have the inputs and outputs that its operator has, and the
tensors must have shapes that memory can hold. What MXNet parses is written anew from
the checked content.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
from functools import lru_cache
from typing import Any, Callable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, OpHandle, SymbolHandle, c_str, c_str_array, check_call

from gluon_compress.graph.annotations import AXES
from gluon_compress.graph.operators import OPERATORS
from gluon_compress.storage.params import read_params
from gluon_compress.storage.reading import (
    Unreadable,
    finite,
    parse_json,
    read_bytes,
)
from gluon_compress.validation import shown

MOST_BYTES = 1 << 24
MOST_NODES = 50_000
MOST_OUTPUTS = 1000  # of one operator
LONGEST_NAME, LONGEST_TEXT = 1000, 1 << 14
MOST_ELEMENTS = 1 << 27  # of one tensor, for one image

# Operators without a row in the table that only compute their outputs. Those that take
# an address from a value without a check, or loop until it is right, are not among
# them: SequenceLast, SequenceMask, SequenceReverse, _unravel_index, _sample_gamma, ...
_OTHERS = """
BilinearSampler CTCLoss Correlation GridGenerator LinearRegressionOutput
LogisticRegressionOutput MAERegressionOutput MakeLoss RNN SVMOutput SoftmaxOutput
SpatialTransformer _contrib_BatchNormWithReLU _contrib_DeformablePSROIPooling
_contrib_MultiBoxDetection _contrib_MultiBoxPrior _contrib_MultiBoxTarget
_contrib_MultiProposal _contrib_PSROIPooling _contrib_Proposal _contrib_RROIAlign
_contrib_allclose _contrib_arange_like _contrib_bipartite_matching _contrib_boolean_mask
_contrib_box_decode _contrib_box_encode _contrib_box_iou _contrib_box_nms
_contrib_index_array _contrib_interleaved_matmul_encdec_qk
_contrib_interleaved_matmul_encdec_valatt _contrib_interleaved_matmul_selfatt_qk
_contrib_interleaved_matmul_selfatt_valatt _contrib_quadratic _eye _hypot_scalar
_identity_with_attr_like_rhs _image_normalize _image_to_tensor _linalg_gemm
_linalg_gemm2 _linalg_syrk _linalg_trmm _linspace _logical_and _logical_and_scalar
_logical_or _logical_or_scalar _logical_xor _logical_xor_scalar _mod _random_normal
_random_randint _random_uniform _rmod_scalar _rnn_param_concat arccos arccosh arcsin
arctanh argmax argmax_channel argmin argsort batch_take broadcast_logical_and
broadcast_logical_or broadcast_logical_xor broadcast_mod col2im cumsum degrees diag
erfinv gather_nd im2col khatri_rao moments nanprod one_hot pick radians rcbrt scatter_nd
shape_array size_array softmax_cross_entropy sort take tan topk
"""
_QUANTIZED = """
_contrib_quantize_v2 _contrib_dequantize _contrib_requantize _contrib_quantized_act
_contrib_quantized_batch_norm _contrib_quantized_concat _contrib_quantized_conv
_contrib_quantized_elemwise_add _contrib_quantized_elemwise_mul
_contrib_quantized_flatten _contrib_quantized_fully_connected
_contrib_quantized_pooling
"""
# Fused by MXNet's back end; the layers are in a subgraph. With the layer that it has.
_FUSED = {
    "_sg_mkldnn_conv": "Convolution",
    "_sg_mkldnn_fully_connected": "FullyConnected",
}
# What else the subgraph may have, and the attribute that says so.
_FOLLOWERS = {
    "BatchNorm": "with_bn",
    "elemwise_add": "with_sum",
    "Activation": "with_act",
    "LeakyReLU": "with_act",
    "clip": "with_act",
}
_STEPS = {*_FOLLOWERS.values(), "with_postsum_act"}
_FLAGS = {*_STEPS, "quantized", "enable_float_output"}
_RANGES = ("min_calib_range", "max_calib_range")
LOADABLE = frozenset(
    {"null", *OPERATORS, *_OTHERS.split(), *_QUANTIZED.split(), *_FUSED}
)

_NODE_KEYS = {"op", "name", "attrs", "inputs", "subgraphs"}
_GRAPH_KEYS = {"nodes", "arg_nodes", "node_row_ptr", "heads", "attrs"}
_NUMBER = re.compile(r"-?\d{1,40}(\.\d{0,40})?(e[+-]?\d{1,2})?")
# As Python reads it, which MXNet's own parser is more lenient than.
_WHOLE = r"-?(?:0|[1-9]\d{0,9})"
_TUPLE = rf"\(\)|\((?:{_WHOLE}, ?){{1,8}}\)|\((?:{_WHOLE}, ?){{1,7}}{_WHOLE}\)"
_SHAPE = re.compile(rf"None|{_TUPLE}")
_AXES = re.compile(_TUPLE)
_REAL = r"[+-]?(?:(?:0|[1-9]\d{0,39})(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?"
_ITEM = rf" ?(?:None|{_REAL}) ?"
_ITEMS = rf"(?:{_ITEM},)*(?:{_ITEM})? ?"
_VALUE = re.compile(rf"{_REAL}|\({_ITEMS}\)|\[{_ITEMS}\]|(?![-+.\d(\[{{'\"]).*")
_ANY = re.compile(".*")
_LEGACY = ("target_shape", "keep_highest")  # of Reshape; its result may be larger


def _numbers(each: str) -> str:
    return rf"[(\[](?:{each}, ?)*(?:{each})?[)\]]"


# What MXNet divides by, or does not check.
_ONLY = {
    ("depth_to_space", "block_size"): r"[1-9]\d{0,3}",
    ("space_to_depth", "block_size"): r"[1-9]\d{0,3}",
    ("_contrib_arange_like", "repeat"): r"[1-9]\d{0,8}",
    ("_arange", "repeat"): r"[1-9]\d{0,8}",
    ("_split_v2", "indices"): _numbers(_WHOLE),
    ("_split_v2", "sections"): r"\d{1,3}",
    **{
        ("_contrib_box_nms", key): r"-?\d{1,4}"
        for key in ("coord_start", "score_index", "id_index")
    },
    **{(op, key): "never" for op in ("Reshape", "reshape") for key in _LEGACY},
}
# Of any operator; MXNet multiplies them in 32 bits, and divides by some.
_POSITIVE, _NATURAL = r"[1-9]\d{0,3}", r"(?:0|[1-9]\d{0,3})"
_SIZES = {
    **dict.fromkeys(
        ("num_group", "num_groups", "num_deformable_group"), r"[1-9]\d{0,6}"
    ),
    **{key: _numbers(_POSITIVE) for key in ("kernel", "stride", "dilate")},
    **{key: _numbers(_NATURAL) for key in ("pad", "adj")},
}
_TRUTH = {"true": "True", "false": "False"}
# Texts of numbers that MXNet allocates by before it looks at any shape.
_COUNTS = {"num_args": 5, "num_outputs": 5, "num_weights": 5, "num_arrays": 5}
_COUNTS.update(num_filter=7, num_hidden=7, num_group=7)  # digits


def read_symbol(path: str | os.PathLike) -> mx.sym.Symbol:
    """Return the symbol of a file.

    Raises
    ------
    ValueError
        If the file is missing, no symbol of MXNet 1, or has an operator that is not in
        ``LOADABLE``; the message names file and node.
    """
    return parse_symbol(read_bytes(path, MOST_BYTES), path)


def parse_symbol(text: bytes | str, source: Any) -> mx.sym.Symbol:
    """Return the symbol that JSON describes, as ``read_symbol`` does."""
    content = parse_json(text, source)
    try:
        checked = _graph(content)
        symbol = mx.sym.load_json(json.dumps(checked))
        if len(symbol.list_outputs()) != len(checked["heads"]):
            raise Unreadable("heads do not give one output each")
    except Unreadable as error:
        raise ValueError(f"{source}: {error}") from None
    except mx.MXNetError as error:
        raise ValueError(f"{source}: {_gist(error)}") from None
    return symbol


def read_values(path: str | os.PathLike) -> dict[str, mx.nd.NDArray]:
    """Return the parameters and running statistics of a file, by name.

    Raises
    ------
    ValueError
        If the file is missing or damaged, a name does not begin with ``arg:`` or
        ``aux:``, or a value is not finite.
    """
    stored = read_params(path)
    finite(stored, path)
    values = {}
    for key, value in stored.items():
        kind, _, name = key.partition(":")
        if kind not in ("arg", "aux") or not name or name in values:
            raise ValueError(f"{path}: name {shown(key)}; allowed: arg:NAME, aux:NAME")
        values[name] = as_ndarray(value)
    return values


def as_ndarray(value: np.ndarray) -> mx.nd.NDArray:
    """Return an array as MXNet's, of the same type."""
    return mx.nd.array(value, dtype=value.dtype)


def _graph(content: Any, *, within: str = "") -> dict:
    """Return a graph of JSON with only what was checked."""
    if not isinstance(content, dict) or not {"nodes", "heads"} <= set(content):
        raise Unreadable("a symbol is an object {...} with nodes and heads")
    unknown = set(content) - _GRAPH_KEYS
    if unknown:
        raise Unreadable(f"{shown(min(unknown))}: no such key of a symbol")
    nodes = _list(content["nodes"], MOST_NODES, "nodes")
    checked: list[dict] = []
    outputs: list[int] = []
    for i, node in enumerate(nodes):
        place = f"{within}nodes[{i}]"
        checked.append(_node(node, place, outputs, within=within))
        outputs.append(_outputs(checked[-1], place))
    heads = [
        _entry(head, outputs, f"{within}heads")
        for head in _list(content["heads"], MOST_OUTPUTS, "heads")
    ]
    if not heads:
        raise Unreadable("heads is []; allowed: one or more")
    graph = {
        "nodes": checked,
        "arg_nodes": [i for i, node in enumerate(checked) if node["op"] == "null"],
        "heads": heads,
    }
    if not within:  # subgraphs state none
        graph["attrs"] = {"mxnet_version": ["int", _version(content)]}
    return graph


def _version(content: Mapping) -> int:
    attrs = content.get("attrs")
    version = attrs.get("mxnet_version") if isinstance(attrs, dict) else None
    number = version[1] if isinstance(version, list) and len(version) == 2 else None
    if type(number) is not int or not 10000 <= number < 20000:
        raise Unreadable(
            f"attrs.mxnet_version is {shown(version)}; allowed: a version 1 of MXNet"
        )
    return number


def _node(
    node: Any, place: str, outputs: Sequence[int], *, within: str
) -> dict[str, Any]:
    if not isinstance(node, dict) or not {"op", "name", "inputs"} <= set(node):
        raise Unreadable(f"{place} has no op, name and inputs")
    unknown = set(node) - _NODE_KEYS
    if unknown:
        raise Unreadable(f"{place}.{shown(min(unknown))}: no such key of a node")
    op = node["op"]
    if not isinstance(op, str) or op not in LOADABLE:
        raise Unreadable(f"{place}.op is {shown(op)}, which is not loaded from files")
    inputs = [
        _entry(entry, outputs, f"{place}.inputs")
        for entry in _list(node["inputs"], MOST_NODES, f"{place}.inputs")
    ]
    checked: dict[str, Any] = {
        "op": op,
        "name": _text(node["name"], LONGEST_NAME, f"{place}.name"),
        "attrs": _attrs(node.get("attrs", {}), op, place, len(inputs)),
        "inputs": inputs,
    }
    subgraphs = _list(node.get("subgraphs", []), 1, f"{place}.subgraphs")
    if op in _FUSED and not within and subgraphs:
        checked["subgraphs"] = [_graph(subgraphs[0], within=f"{place}.subgraphs[0].")]
        _check_fused(checked, place)
    elif op in _FUSED or subgraphs:
        raise Unreadable(f"{place}.subgraphs: {op} has {len(subgraphs)} here")
    elif op == "null":
        _check_variable(checked, place)
    else:
        expected, _ = _signature(checked, place)
        if len(inputs) != expected:
            raise Unreadable(f"{place}: {op} has {len(inputs)} inputs, not {expected}")
    return checked


def _check_fused(node: Mapping, place: str) -> None:
    """Check that flags, inputs and subgraph of a fused layer say the same."""
    flags, nodes = node["attrs"], node["subgraphs"][0]["nodes"]
    for key, value in flags.items():
        valid = key in _FLAGS and value.lower() in ("true", "false", "0", "1")
        if not valid and not (key in _RANGES and _NUMBER.fullmatch(value)):
            raise Unreadable(f"{place}.attrs.{shown(key)[1:-1]} is {shown(value)}")
    ops = [inner["op"] for inner in nodes if inner["op"] != "null"]
    stated = {flag for flag in _STEPS if _is_on(flags, flag)}
    implied = {_FOLLOWERS.get(op, op) for op in ops[1:]}
    if ops[:1] == [_FUSED[node["op"]]] and "with_sum" in implied:
        after = {_FOLLOWERS.get(op) for op in ops[ops.index("elemwise_add") + 1 :]}
        before = {_FOLLOWERS.get(op) for op in ops[1 : ops.index("elemwise_add")]}
        implied = before | {"with_sum"}
        implied |= {"with_postsum_act"} if "with_act" in after else set()
    if ops[:1] != [_FUSED[node["op"]]] or stated != implied or len(ops) > 5:
        raise Unreadable(f"{place}: {shown(ops)} is not what its flags say")
    expected = sum(inner["op"] == "null" for inner in nodes)
    if _is_on(flags, "quantized"):  # with the ranges of what is int8
        is_conv = node["op"] == "_sg_mkldnn_conv"
        expected += 2 + 2 * ("with_sum" in implied) if is_conv else 2 * expected
    if len(node["inputs"]) != expected or len(node["subgraphs"][0]["heads"]) != 1:
        raise Unreadable(f"{place} has {len(node['inputs'])} inputs, not {expected}")


def _is_on(flags: Mapping[str, str], key: str) -> bool:
    return flags.get(key, "").lower() in ("true", "1")


def _outputs(node: Mapping, place: str) -> int:
    """Return how many outputs a checked node has."""
    if node["op"] == "null":
        return 1
    if node["op"] in _FUSED:
        flags = node["attrs"]
        whole = _is_on(flags, "quantized") and not _is_on(flags, "enable_float_output")
        return 3 if whole else 1  # with the smallest and the largest value
    return _signature(node, place)[1]


def _attrs(attrs: Any, op: str, place: str, inputs: int) -> dict[str, str]:
    if not isinstance(attrs, dict):
        raise Unreadable(f"{place}.attrs is {shown(attrs)}; allowed: an object {{...}}")
    checked: dict[str, str] = {}
    for key, value in attrs.items():
        key_place = f"{place}.attrs"
        _text(key, LONGEST_NAME, key_place)
        _text(value, LONGEST_TEXT, f"{key_place}.{shown(key)[1:-1]}")
        if key in _COUNTS and not re.fullmatch(rf"\d{{1,{_COUNTS[key]}}}", value):
            raise Unreadable(f"{key_place}.{key} is {shown(value)}")
        valid = _AXES if key == AXES else _ANY if _is_hidden(key) else _VALUE
        only = _ONLY.get((op, key), _SIZES.get(key))
        if not valid.fullmatch(value) or not (
            only is None or re.fullmatch(only, value)
        ):
            raise Unreadable(f"{key_place}.{shown(key)[1:-1]} is {shown(value)}")
        if not _is_hidden(key):
            value = _TRUTH.get(value.lower(), value)
        checked[key] = value
    if int(attrs.get("num_args", inputs)) > max(inputs, 1):
        raise Unreadable(f"{place} has {inputs} inputs, num_args states more")
    if int(attrs.get("num_outputs", 1)) > MOST_OUTPUTS:
        raise Unreadable(f"{place} has more than {MOST_OUTPUTS} outputs")
    if op == "_split_v2" and not (
        int(attrs.get("sections", 0)) or re.search(r"\d", attrs.get("indices", ""))
    ):
        raise Unreadable(f"{place} splits into no parts")
    return checked


def _check_variable(node: Mapping, place: str) -> None:
    """Check what MXNet, and shape inference here, parse of a variable."""
    attrs = node["attrs"]
    if node["inputs"]:
        raise Unreadable(f"{place}: a variable with inputs")
    shape = attrs.get("__shape__", "None")
    if not _SHAPE.fullmatch(shape):
        raise Unreadable(f"{place}.attrs.__shape__ is {shown(shape)}")
    if attrs.get("__dtype__", "0") not in ("-1", *map(str, range(8)), "12"):
        raise Unreadable(f"{place}.attrs.__dtype__ is {shown(attrs['__dtype__'])}")
    if attrs.get("__storage_type__", "0") not in ("-1", "0"):
        stated = shown(attrs["__storage_type__"])
        raise Unreadable(f"{place}.attrs.__storage_type__ is {stated}")


def _signature(node: Mapping, place: str) -> tuple[int, int]:
    """Return how many inputs and outputs a node has by its operator and attributes."""
    plain = {k: v for k, v in node["attrs"].items() if not _is_hidden(k)}
    try:
        return _counts(node["op"], tuple(sorted(plain.items())))
    except mx.MXNetError as error:
        raise Unreadable(f"{place} ({node['op']}): {_gist(error)}") from None


@lru_cache(maxsize=4096)
def _counts(op: str, attrs: tuple) -> tuple[int, int]:
    symbol = _atomic(op, dict(attrs))
    return len(symbol.list_inputs()), len(symbol.list_outputs())


def _is_hidden(key: str) -> bool:
    return key.startswith("__") and key.endswith("__")


def _atomic(op: str, attrs: Mapping[str, str]) -> mx.sym.Symbol:
    """Return a symbol of one operator whose inputs are all variables."""
    creator, handle = OpHandle(), SymbolHandle()
    check_call(_LIB.NNGetOpHandle(c_str(op), ctypes.byref(creator)))
    check_call(
        _LIB.MXSymbolCreateAtomicSymbol(
            creator,
            ctypes.c_uint(len(attrs)),
            c_str_array([*attrs]),
            c_str_array([*attrs.values()]),
            ctypes.byref(handle),
        )
    )
    symbol = mx.sym.Symbol(handle)
    symbol._compose(name="one")
    return symbol


def _entry(entry: Any, outputs: Sequence[int], place: str) -> list[int]:
    """Return a reference to an output of an earlier node."""
    valid = isinstance(entry, list) and len(entry) in (2, 3)
    if not valid or not all(type(n) is int and n >= 0 for n in entry):
        raise Unreadable(f"{place}: {shown(entry)}; allowed: [node, output, version]")
    node, output, version = (*entry, 0)[:3]
    if node >= len(outputs) or output >= outputs[node] or version > MOST_NODES:
        raise Unreadable(f"{place}: {shown(entry)} is no output of an earlier node")
    return [node, output, version]


def _list(value: Any, most: int, place: str) -> list:
    if not isinstance(value, list) or len(value) > most:
        raise Unreadable(f"{place} must be a list of at most {most}")
    return value


def _text(value: Any, most: int, place: str) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise Unreadable(f"{place} is {shown(value)}; allowed: a printable text")
    return value


def _gist(error: Exception) -> str:
    """Return the line of an MXNet error that says what is wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = next((line for line in reversed(lines) if "Error" in line), lines[-1])
    return shown(re.sub(r"^.*?Error: ", "", line.strip()))[1:-1]


# ------------------------------------------------------------------- with values


def check_fit(
    symbol: mx.sym.Symbol,
    shapes: Mapping[str, Sequence[int]],
    inputs: Mapping[str, Sequence[int]],
    source: Any,
) -> None:
    """Refuse parameters that a symbol does not have, and tensors beyond all memory.

    Parameters
    ----------
    symbol : Symbol
    shapes : mapping
        Shapes of the parameters and running statistics.
    inputs : mapping
        Shapes of the inputs, for one image.
    source : path
        Errors start with it.

    Raises
    ------
    ValueError
        Naming a parameter that is missing, unknown or of another shape, or a tensor of
        more than ``MOST_ELEMENTS``.
    """
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    for name in sorted({*names} ^ {*shapes, *inputs}):
        has = "has no value" if name in names else "is no parameter of the symbol"
        raise ValueError(f"{source}: {shown(name)} {has}")
    stated = {**{n: tuple(s) for n, s in shapes.items()}, **inputs}
    internals = symbol.get_internals()
    try:
        arguments, inferred, states = internals.infer_shape_partial(**stated)
    except mx.MXNetError as error:
        raise ValueError(f"{source}: shapes do not fit: {_gist(error)}") from None
    names = [*internals.list_arguments(), *internals.list_auxiliary_states()]
    for name, shape in zip(names, [*arguments, *states]):
        if tuple(shape) != tuple(stated[name]):
            raise ValueError(
                f"{source}: {shown(name)} has shape {shown(tuple(stated[name]))}; the "
                f"symbol needs {shown(tuple(shape))}"
            )
    for name, shape in zip(internals.list_outputs(), inferred):
        if not shape or not 0 < math.prod(shape) <= MOST_ELEMENTS or min(shape) < 1:
            raise ValueError(
                f"{source}: {shown(name)} has shape {shown(tuple(shape or ()))}; "
                f"allowed: one that is known, of at most {MOST_ELEMENTS} numbers"
            )
    try:
        _check_shapes(symbol, inferred)
    except Unreadable as error:
        raise ValueError(f"{source}: {error}") from None


def _check_shapes(symbol: mx.sym.Symbol, inferred: Sequence) -> None:
    """Refuse inputs of a shape that MXNet does not check.

    Parameters
    ----------
    symbol : Symbol
    inferred : sequence
        Shapes of all outputs of its nodes, in order.
    """
    rest = list(map(tuple, inferred))
    outputs: list[list[tuple]] = []  # of each node
    for node in json.loads(symbol.tojson())["nodes"]:
        count = _outputs({"attrs": {}, **node}, node["name"])
        ins = [outputs[k][output] for k, output, *_ in node["inputs"]]
        outputs.append(rest[:count])
        del rest[:count]
        fits = _FITS.get(node["op"])
        if fits and not fits(ins, outputs[-1], node.get("attrs", {})):
            raise Unreadable(f"{shown(node['name'])} ({node['op']}) of {shown(ins)}")


def _same_size(ins: Sequence[tuple], outs: Sequence[tuple], _: Mapping) -> bool:
    return math.prod(ins[0]) == math.prod(outs[0])


def _one_of_two(ins: Sequence[tuple], _: Sequence[tuple], __: Mapping) -> bool:
    condition, one, other = ins
    return one == other and condition in (one, one[:1])


def _columns(ins: Sequence[tuple], _: Sequence[tuple], attrs: Mapping) -> bool:
    """Whether NMS finds a box, its score and its class in the last axis."""
    first, score, label = (
        int(attrs.get(key, default))
        for key, default in (("coord_start", 2), ("score_index", 1), ("id_index", -1))
    )
    width = ins[0][-1]
    return 0 <= first <= width - 4 and 0 <= score < width and -1 <= label < width


_FITS: dict[str, Callable[[Sequence[tuple], Sequence[tuple], Mapping], bool]] = {
    "Reshape": _same_size,
    "reshape": _same_size,
    "where": _one_of_two,
    "_contrib_box_nms": _columns,
}


def output_shapes(
    symbol: mx.sym.Symbol, inputs: Mapping[str, Sequence[int]], source: Any
) -> list[tuple[int, ...]]:
    """Return the shapes of a symbol's outputs; those that do not follow are ()."""
    try:
        _, shapes, _ = symbol.infer_shape_partial(**inputs)
    except mx.MXNetError as error:
        raise ValueError(f"{source}: shapes do not fit: {_gist(error)}") from None
    return [tuple(shape) for shape in shapes or ()]
