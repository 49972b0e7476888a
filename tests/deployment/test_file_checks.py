"""Files of edge runtimes are refused before a runtime parses what it cannot stand."""

from __future__ import annotations

import struct

import pytest

from gluon_compress.deployment.file_checks import check_files

SHAPE = (1, 3, 8, 8)


def refused(files, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_files(files, SHAPE)
    assert str(files[0].parent) in str(error.value)
    assert len(str(error.value)) - len(str(files[0])) < 300


# --------------------------------------------------------------------- ncnn

CONVOLUTION = "Convolution c 1 1 in0 out0 0=2 1=3 5=1 6=54"
PARAM = f"7767517\n2 2\nInput in0 0 1 in0\n{CONVOLUTION}\n"
BYTES = 4 + 4 * 54 + 4 * 2  # a flag, weights, biases


def ncnn(folder, text: str, size: int = BYTES) -> list:
    files = [folder / "a.ncnn.param", folder / "a.ncnn.bin"]
    files[0].write_text(text)
    files[1].write_bytes(bytes(size))
    return files


def test_a_sound_ncnn_file_is_accepted(tmp_path):
    check_files(ncnn(tmp_path, PARAM), SHAPE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("7767517", "7767518"),
        ("2 2", "2 3"),
        ("2 2", "999999999 2"),
        ("Convolution", "Custom"),
        ("c 1 1", "c 2 1"),
        ("c 1 1 in0", "c 1 1 in1"),
        ("out0", "in0"),
        ("1=3", "1=0"),
        ("0=2", "0=0"),
        ("0=2", "0=3"),
        ("6=54", "6=2147483647"),
        ("6=54", "6=36"),
        ("1=3", "1=99999999999"),
        ("1=3", "40=3"),
        ("1=3", "1=x"),
        ("1=3", "-23300=5,1"),
        ("0=2", "8=1 0=2"),
        ("out0", "x" * 300),
        ("6=54", "6=54 9=2"),  # an activation without its number
        ("6=54", "6=54 19=1"),  # weights that another layer computes
        ("6=54", "6=54 2=99999"),
    ],
)
def test_other_ncnn_files_are_refused(tmp_path, before, after):
    text = PARAM.replace(before, after, 1 if before != "out0" else 9)
    refused(ncnn(tmp_path, text), ".")


@pytest.mark.parametrize(
    ("layers", "fits"),
    [
        (["Reshape 0=8 1=24"], True),
        (["Reshape 0=8 1=25"], False),
        (["Reshape 0=8 1=8 2=3"], True),
        (["Reshape 0=1 1=1 2=100000"], False),
        (["Reshape 0=-1 1=6"], True),
        (["Reshape 0=-1 1=5"], False),  # 192 are no multiple
        (["Reshape 0=-1 1=-1"], False),
        (["Reshape 0=0 1=0 2=0"], True),
        (["Reshape 0=400"], True),  # ncnn only flattens
        (["Reshape 0=8 1=8 11=1 2=3"], True),
        (["Reshape 0=8 1=8 11=2 2=3"], False),
        (["Pooling 0=0 1=3 2=2", "Reshape 0=16 1=3"], True),  # rounded up
        (["Pooling 0=0 1=3 2=2 5=1", "Reshape 0=9 1=3"], True),  # rounded down
        (["Pooling 0=0 1=3 2=2 5=1", "Reshape 0=16 1=3"], False),
        (["Pooling 0=1 4=1", "Reshape 0=1 1=1 2=3"], True),
        (["Permute 0=3", "Reshape 0=3 1=64"], True),
        (["Permute 0=3", "Reshape 0=4 1=64"], False),
        (["Interp 0=1 1=2.0 2=2.0", "Reshape 0=256 1=3"], True),
        (["Interp 0=1 1=2.0 2=2.0", "Reshape 0=64 1=3"], False),
        (["Padding 0=1 1=1 2=0 3=0", "Reshape 0=80 1=3"], True),
        (["Crop -23309=1,2 -23310=1,8 -23311=1,1", "Reshape 0=48 1=3"], True),
        (["Reduction 0=3 1=0 -23303=1,0 4=1", "Reshape 0=64 1=1"], True),
        (["Reduction 0=3 1=0 -23303=1,0 4=1", "Reshape 0=64 1=3"], False),
        (["Tile 0=0 1=2", "Reshape 0=64 1=6"], False),  # not known here
    ],
)
def test_ncnn_reshapes_keep_the_number_of_elements(tmp_path, layers, fits):
    lines = ["Input in0 0 1 in0"]
    for i, layer in enumerate(layers):
        kind, _, settings = layer.partition(" ")
        lines.append(f"{kind} l{i} 1 1 {f'b{i - 1}' if i else 'in0'} b{i} {settings}")
    text = "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""])
    files = ncnn(tmp_path, text, 0)
    if fits:
        check_files(files, SHAPE)
    else:
        refused(files, "layer 'l.' reshapes ")


@pytest.mark.parametrize(
    ("parts", "fits"),
    [("2,-233", True), ("2,4", True), ("7,-233", False), ("5,2", False)],
)
def test_ncnn_slices_are_parts_of_what_is_there(tmp_path, parts, fits):
    lines = [
        "Input in0 0 1 in0",
        "Split s 1 2 in0 a b",
        "Concat c 2 1 a b c 0=0",
        "ShuffleChannel f 1 1 c f 0=2",
        f"Slice p 1 2 f d e -23300=2,{parts} 1=0",
    ]
    files = ncnn(tmp_path, "\n".join(["7767517", "5 7", *lines, ""]), 0)
    if fits:
        check_files(files, SHAPE)
    else:
        refused(files, "layer 'p' splits ")


@pytest.mark.parametrize("kind", ["Deconvolution", "ConvolutionDepthWise"])
def test_ncnn_convolutions_of_all_kinds_are_accepted(tmp_path, kind):
    check_files(ncnn(tmp_path, PARAM.replace("Convolution", kind)), SHAPE)


def test_ncnn_activations_pass_channels_on(tmp_path):
    text = PARAM.replace("2 2", "3 3").replace("c 1 1 in0", "c 1 1 s")
    text = text.replace("in0\n", "in0\nSoftplus s 1 1 in0 s\n", 1)
    check_files(ncnn(tmp_path, text), SHAPE)
    refused(ncnn(tmp_path, text.replace("6=54", "6=36")), "of 3")


@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        ("Pooling p 1 1 out0 p 0=0 1=2 2=2", True),
        ("Pooling p 1 1 out0 p 0=0 1=2 2=0", False),  # divided by 0
        ("Pooling p 1 1 out0 p 0=0 1=3 3=-20", False),  # ended the process
        ("Interp p 1 1 out0 p 0=1 1=2.0 2=2.0", True),
        ("Interp p 1 1 out0 p 0=1 1=1e+09 2=2.0", False),
        ("Interp p 1 1 out0 p 0=1 3=4096 4=4096", False),
        ("PixelShuffle p 1 1 out0 p 0=0", False),
        ("Softmax p 1 1 out0 p 0=9 1=1", False),
        ("Reduction p 1 1 out0 p 0=3 -23303=2,1,2", True),
        ("Reduction p 1 1 out0 p 0=3 -23303=2,1,99", False),
        ("BinaryOp p 1 1 out0 p 0=2 1=1 2=0.5", True),
        ("BinaryOp p 1 1 out0 p 0=2", False),
        ("Slice p 1 2 out0 p q -23300=2,1,-233", True),
        ("Slice p 1 2 out0 p q -23300=2,1,9", False),
        ("Slice p 1 2 out0 p q -23300=1,-233", False),
        ("ReLU p 1 2 out0 p q", False),
    ],
)
def test_ncnn_layers_stay_within_bounds(tmp_path, layer, fits):
    blobs = 2 + int(layer.split()[3])
    text = PARAM.replace("2 2\n", f"3 {blobs}\n", 1) + layer + "\n"
    if fits:
        check_files(ncnn(tmp_path, text), SHAPE)
    else:
        refused(ncnn(tmp_path, text), ".")


@pytest.mark.parametrize("size", [0, BYTES - 4, BYTES + 4])
def test_ncnn_weights_have_the_size_that_layers_need(tmp_path, size):
    refused(ncnn(tmp_path, PARAM, size), f"a.ncnn.bin: .*{BYTES} bytes")


# --------------------------------------------------------------------- ONNX


def field(number: int, content) -> bytes:
    """Return a field of a protocol buffer: a small number, or bytes."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    size = len(content)
    head = bytes([number << 3 | 2, size & 127 | 128, size >> 7])
    return head + content


def onnx(folder, *, tensor: bytes = b"", node: bytes = b"", more: bytes = b"") -> list:
    graph = field(1, node) + field(5, tensor)
    (folder / "a.onnx").write_bytes(field(7, graph) + more)
    return [folder / "a.onnx"]


TENSOR = field(1, 2) + field(2, 1) + field(9, struct.pack("<2f", 1, 2))


def test_a_sound_onnx_file_is_accepted(tmp_path):
    check_files(onnx(tmp_path, tensor=TENSOR, node=field(4, b"Relu")), SHAPE)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"tensor": TENSOR + field(14, 1)}, "another file"),
        ({"tensor": TENSOR + field(13, field(1, b"location"))}, "another file"),
        ({"tensor": TENSOR.replace(b"\x08\x02", b"\x08\x03")}, r"\[3\] with 8 bytes"),
        ({"tensor": field(1, b"\xff" * 9 + b"\x01") + field(2, 1)}, "tensor of type"),
        ({"tensor": field(1, 2) + field(2, 99)}, "type 99"),
        ({"tensor": TENSOR[:-1] + b"\x7f\x7f"}, "."),
        ({"node": field(7, b"com.example")}, "com.example"),
        ({"node": field(5, field(6, b""))}, "a graph"),
        ({"node": field(5, field(5, TENSOR + field(14, 1)))}, "another file"),
        ({"node": field(5, field(1, b"group") + field(3, 0))}, "'group' is .0"),
        ({"node": field(5, field(1, b"pads") + field(8, b"\xff" * 9 + b"\1"))}, "pads"),
        ({"more": field(25, b"")[:1] + b"\x00"}, "."),
        ({"more": field(7, b"")}, "2 graphs"),
    ],
)
def test_other_onnx_files_are_refused(tmp_path, parts, message):
    refused(onnx(tmp_path, **parts), message)


# --------------------------------------------------------------------- OpenVINO

DATA = '<data element_type="f32" shape="2, 3" offset="8" size="24"/>'
CONST = f'<layer id="0" name="w" type="Const" version="opset1">{DATA}</layer>'
RESULT = '<layer id="1" name="r" type="Result" version="opset1"/>'
EDGE = '<edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>'
NET = f'<net version="11"><layers>{CONST}{RESULT}</layers><edges>{EDGE}</edges></net>'


def openvino(folder, text: str) -> list:
    files = [folder / "a.xml", folder / "a.bin"]
    files[0].write_text(text)
    files[1].write_bytes(bytes(32))
    return files


def test_a_sound_openvino_file_is_accepted(tmp_path):
    check_files(openvino(tmp_path, NET), SHAPE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<net", "<!DOCTYPE a [<!ENTITY b 'c'>]><net"),
        ("<net", "<not"),
        ('version="11"', 'version="99"'),
        ('offset="8"', 'offset="16"'),
        ('offset="8"', 'offset="-8"'),
        ('offset="8"', 'offset="9999999999999999999"'),
        ('size="24"', 'size="20"'),
        ("2, 3", "2, 4"),
        ("2, 3", "99999, 99999"),
        ('"f32"', '"string"'),
        ("<data ", '<data pads_begin="0, 1073741824" '),  # took for ever
        ("<data ", '<data strides="0, 1" '),
        ('to-layer="1"', 'to-layer="7"'),
        ("opset1", "extension"),
        ("<edges>", "<body/><edges>"),
        (RESULT, RESULT + "<port><dim>99999</dim><dim>99999</dim></port>"),
    ],
)
def test_other_openvino_files_are_refused(tmp_path, before, after):
    refused(openvino(tmp_path, NET.replace(before, after, 1)), ".")
