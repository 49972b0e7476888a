"""Symbol files of others: MXNet sees only what is checked."""

from __future__ import annotations

import copy
import json

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.graph.symbol_files import (
    check_fit,
    output_shapes,
    parse_symbol,
    read_symbol,
    read_values,
)


def small() -> mx.sym.Symbol:
    data = mx.sym.var("data", shape=(0, 3, 8, 8))
    layer = mx.sym.Convolution(data, kernel=(3, 3), num_filter=4, name="conv")
    norm = mx.sym.BatchNorm(layer, name="norm")
    first, second = mx.sym.split(norm, num_outputs=2, name="split")
    return mx.sym.Group([mx.sym.concat(first, second, dim=1, name="join"), second])


GRAPH = json.loads(small().tojson())
NUMBERS = {node["name"]: i for i, node in enumerate(GRAPH["nodes"])}


def changed(path: str, value) -> str:
    """Return the symbol with one value changed; None removes it."""
    content = inner = copy.deepcopy(GRAPH)
    *keys, last = path.split("/")
    for key in keys:
        number = NUMBERS.get(key, key)
        inner = inner[int(number) if isinstance(inner, list) else number]
    if value is None:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return json.dumps(content)


def refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_symbol(text, "a.json")
    assert str(error.value).startswith("a.json: ")
    assert len(str(error.value)) <= 300
    assert "\n" not in str(error.value)


def test_a_sound_symbol_is_read_as_mxnet_reads_it(tmp_path):
    small().save(str(tmp_path / "a.json"))
    read = read_symbol(tmp_path / "a.json")
    assert json.loads(read.tojson()) == GRAPH
    assert output_shapes(read, {"data": (1, 3, 8, 8)}, "a") == [
        (1, 4, 6, 6),
        (1, 2, 6, 6),
    ]


@pytest.mark.parametrize(
    "op", ["_Native", "_NDArray", "Custom", "_CustomFunction", "_cvimread", "_foreach"]
)
def test_operators_that_do_more_than_compute_are_refused(op):
    text = changed("nodes/conv/op", op)
    attrs = {"info": "0x41414141", "op_type": "x", "filename": "/etc/passwd"}
    content = json.loads(text)
    content["nodes"][NUMBERS["conv"]]["attrs"] = attrs
    refused(json.dumps(content), rf"nodes\[{NUMBERS['conv']}\].op is '{op}'")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes", None, "nodes and heads"),
        ("nodes", {}, "nodes must be a list"),
        ("heads", [], "heads"),
        ("heads", [[99, 0, 0]], "heads: .*no output"),
        ("heads", [[0, 1, 0]], "heads: .*no output"),
        ("heads", [[-1, 0, 0]], "heads"),
        ("heads", [[2**31, 0, 0]], "heads"),
        ("more", 1, "'more': no such key"),
        ("attrs", None, "mxnet_version"),
        ("attrs/mxnet_version", ["int", 800], "mxnet_version"),
        ("attrs/mxnet_version", ["list_int", [1]], "mxnet_version"),
        ("nodes/conv/name", "a\nb", "name is"),
        ("nodes/conv/name", "x" * 9999, "name is"),
        ("nodes/conv/param", {}, "'param': no such key"),
        ("nodes/conv/inputs", [[0, 0, 0]], "1 inputs, not 3"),
        ("nodes/conv/inputs", [[0, 0, 0]] * 9, "9 inputs, not 3"),
        ("nodes/conv/inputs", None, "has no op, name and inputs"),
        ("nodes/conv/inputs/0", [8, 0, 0], "no output of an earlier node"),
        ("nodes/join/inputs/0", [NUMBERS["split"], 2, 0], "no output"),
        ("nodes/conv/subgraphs", [GRAPH], "subgraphs"),
        ("nodes/conv/attrs", [], "attrs is"),
        ("nodes/conv/attrs/num_filter", 4, "num_filter is 4"),
        ("nodes/conv/attrs/num_filter", "-4", "nodes"),
        ("nodes/conv/attrs/num_filter", "9" * 5000, "nodes"),
        ("nodes/conv/attrs/kernel", "(" + "1, " * 100 + ")", "Convolution"),
        ("nodes/conv/attrs/kernel", "(" * 3000, "kernel"),
        ("nodes/conv/attrs/unknown", "1", "Convolution"),
        ("nodes/conv/attrs/num_group", "0", "num_group is '0'"),
        ("nodes/conv/attrs/dilate", "(2147483647, 1)", "dilate is"),
        ("nodes/conv/attrs/stride", "(0, 1)", "stride is"),
        ("nodes/conv/attrs/pad", "(-1, 1)", "pad is"),
        ("nodes/join/attrs/num_args", "999999999", "num_args"),
        ("nodes/split/attrs/num_outputs", "99999", "outputs"),
        ("nodes/data/inputs", [[0, 0, 0]], "inputs"),
        ("nodes/data/attrs/__shape__", "__import__('os')", "__shape__"),
        ("nodes/data/attrs/__shape__", "(" * 3000, "__shape__"),
        ("nodes/data/attrs/__dtype__", "99", "__dtype__"),
        ("nodes/data/attrs/__storage_type__", "7", "__storage_type__"),
    ],
)
def test_what_cannot_be_is_refused(path, value, message):
    refused(changed(path, value), message)


@pytest.mark.parametrize(
    "attrs",
    [
        {"indices": "None"},  # took 3 GB
        {"indices": "()"},  # ended the process
        {"indices": "()", "sections": "999999999"},
        {"indices": "(0, -2147483648, None)"},
    ],
)
def test_splits_have_few_parts(attrs):
    nodes = [
        {"op": "null", "name": "data", "inputs": []},
        {"op": "_split_v2", "name": "s", "attrs": attrs, "inputs": [[0, 0, 0]]},
    ]
    refused(json.dumps({**GRAPH, "nodes": nodes, "heads": [[1, 0, 0]]}), "nodes.1.")


@pytest.mark.parametrize(
    ("start", "fits"), [(2, True), (3, False), (-1, False), (2000, False)]
)
def test_nms_looks_for_boxes_within_rows(start, fits):
    found = mx.sym.contrib.box_nms(mx.sym.var("data"), coord_start=start)
    symbol = parse_symbol(found.tojson(), "a.json")
    if fits:
        check_fit(symbol, {}, {"data": (1, 5, 6)}, "a")
    else:
        with pytest.raises(ValueError, match="box_nms"):
            check_fit(symbol, {}, {"data": (1, 5, 6)}, "a")


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 3000, '{"nodes": 1}'])
def test_what_is_no_symbol_is_refused(text):
    refused(text, ".")


SHAPES = {
    "conv_weight": (4, 3, 3, 3),
    "conv_bias": (4,),
    **{f"norm_{name}": (4,) for name in ("gamma", "beta")},
    **{f"norm_moving_{name}": (4,) for name in ("mean", "var")},
}
INPUT = {"data": (1, 3, 8, 8)}


def test_parameters_that_fit_are_accepted():
    check_fit(small(), SHAPES, INPUT, "a.params")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({**SHAPES, "more": (1,)}, "'more' is no parameter"),
        ({k: v for k, v in SHAPES.items() if k != "conv_bias"}, "'conv_bias' has no"),
        ({**SHAPES, "conv_weight": (4, 3, 3, 5)}, "a.params: "),
        ({**SHAPES, "norm_moving_var": (5,)}, "a.params: "),
    ],
)
def test_parameters_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message) as error:
        check_fit(small(), shapes, INPUT, "a.params")
    assert len(str(error.value)) <= 300


def test_a_tensor_beyond_memory_is_refused():
    large = mx.sym.tile(mx.sym.var("data"), reps=(1, 1, 99999, 99999), name="large")
    with pytest.raises(ValueError, match="'large_output' has shape"):
        check_fit(large, {}, INPUT, "a.params")


@pytest.mark.parametrize("name", ["weight", "arg:", "other:a"])
def test_values_need_their_prefix(tmp_path, name):
    mx.nd.save(str(tmp_path / "a.params"), {name: mx.nd.ones(2)})
    with pytest.raises(ValueError, match=r"a\.params: name"):
        read_values(tmp_path / "a.params")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_are_finite(tmp_path, value):
    mx.nd.save(str(tmp_path / "a.params"), {"arg:a": mx.nd.array([value])})
    with pytest.raises(ValueError, match=r"a\.params: 'arg:a' holds NaN"):
        read_values(tmp_path / "a.params")


def one_of(op: str, inputs: int = 1, **attrs: str) -> str:
    """Return a symbol of one operator whose inputs are variables x0, x1, ..."""
    nodes = [{"op": "null", "name": f"x{i}", "inputs": []} for i in range(inputs)]
    entries = [[i, 0, 0] for i in range(inputs)]
    nodes.append({"op": op, "name": "one", "attrs": attrs, "inputs": entries})
    versions = {"mxnet_version": ["int", 10901]}
    return json.dumps({"nodes": nodes, "heads": [[inputs, 0, 0]], "attrs": versions})


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        # Each of these ended the process, or changed memory that is not its own.
        ("Reshape", {"shape": "(1, 1, 1)", "keep_highest": "True"}),
        ("reshape", {"target_shape": "(1, 1)"}),
        ("depth_to_space", {"block_size": "-2147483648"}),
        ("space_to_depth", {"block_size": "0"}),
        ("_contrib_arange_like", {"repeat": "0"}),
        # Python and MXNet would read these in two ways.
        ("softmax", {"axis": "01"}),
        ("Pooling", {"kernel": "(3L, 3L)"}),
        ("transpose", {"axes": "(0, 1]"}),
        ("transpose", {"axes": "(" * 3000}),
    ],
)
def test_attributes_that_mxnet_does_not_check_are_refused(op, attrs):
    refused(one_of(op, **attrs), "one|nodes")


@pytest.mark.parametrize(
    "op", ["SequenceMask", "SequenceReverse", "_unravel_index", "_sample_gamma"]
)
def test_operators_that_take_addresses_from_values_are_refused(op):
    refused(one_of(op, 2), "not loaded")


@pytest.mark.parametrize("key", ["__shape__", "__annotation_axes__"])
@pytest.mark.parametrize("text", ["(5)", "(01,)", "(1, 2]", "(1,", "-" * 3000])
def test_texts_of_variables_are_tuples(key, text):
    refused(changed("nodes/conv_weight/attrs", {key: text}), key)


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_truth_is_written_as_python_reads_it(text):
    symbol = parse_symbol(changed("nodes/norm/attrs", {"fix_gamma": text}), "a.json")
    assert symbol.attr_dict()["norm"]["fix_gamma"] == "True"


@pytest.mark.parametrize("shape", [(2, 4), (8,)])
def test_choices_need_equal_shapes(shape):
    symbol = parse_symbol(one_of("where", 3), "a.json")
    shapes = {"x1": shape, "x2": shape}
    with pytest.raises(ValueError, match=r"^a: .*where"):
        check_fit(symbol, shapes, {"x0": (1, 3, 8)}, "a")


def test_reshaping_keeps_the_number_of_elements():
    symbol = parse_symbol(one_of("Reshape", shape="(1, 1, 1)"), "a.json")
    with pytest.raises(ValueError, match="a: "):
        check_fit(symbol, {}, {"x0": (1, 3, 8)}, "a")


def test_a_tensor_of_unknown_shape_is_refused():
    symbol = parse_symbol(one_of("_contrib_boolean_mask", 2), "a.json")
    with pytest.raises(ValueError, match="known"):
        check_fit(symbol, {"x1": (1,)}, {"x0": (1, 3)}, "a")
