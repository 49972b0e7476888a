from __future__ import annotations

import io
import json
import random

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd

from gluon_compress.train.checkpoint import (
    check_resumable,
    read_checkpoint,
    write_checkpoint,
)
from gluon_compress.train.optimizer_state import OptimizerState

META = {"epoch": 3, "best": None, "settings": {"milestones": [1, 2]}}
STATE = OptimizerState({"optimizer": "SGD"}, {"0.0": np.arange(6.0).reshape(3, 2)})


def dense(*shapes) -> gluon.nn.HybridSequential:
    """Return dense layers of (units, inputs) with random values."""
    net = gluon.nn.HybridSequential()
    for units, inputs in shapes:
        net.add(gluon.nn.Dense(units, in_units=inputs))
    net.initialize(mx.init.Normal(1))
    return net


def parameters(net) -> list:
    return list(net.collect_params().values())


def values(net) -> list:
    return [p.data().asnumpy() for p in parameters(net)]


def is_content(result: tuple) -> bool:
    """Tell whether META and STATE came back."""
    meta, state = result
    return (
        meta == META
        and state.numbers == STATE.numbers
        and state.arrays.keys() == STATE.arrays.keys()
        and same([*state.arrays.values()], [*STATE.arrays.values()])
    )


def same(first: list, second: list) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.ckpt"


def test_everything_comes_back(path):
    net, other = dense((3, 2), (2, 3)), dense((3, 2), (2, 3))
    write_checkpoint(path, parameters(net), META, STATE)
    assert is_content(read_checkpoint(path, parameters(other)))
    assert same(values(net), values(other))


def test_order_counts_and_names_do_not(path):
    # Layers nine and ten of a process: sorted by name they would change places.
    shapes = [(2, 2)] * 12
    net = dense(*shapes)
    other = dense(*shapes)
    write_checkpoint(path, parameters(net), META)
    read_checkpoint(path, parameters(other))
    assert [p.name for p in parameters(net)] != [p.name for p in parameters(other)]
    assert same(values(net), values(other))


def test_all_devices_get_the_values(path):
    net, other = dense((2, 2)), dense((2, 2))
    other.collect_params().reset_ctx([mx.cpu(0), mx.cpu(1)])
    write_checkpoint(path, parameters(net), META)
    read_checkpoint(path, parameters(other))
    for parameter, value in zip(parameters(other), values(net)):
        assert [np.array_equal(a.asnumpy(), value) for a in parameter.list_data()] == [
            True,
            True,
        ]


def test_half_precision_stays_what_it_is(path):
    net, other = dense((2, 2)), dense((2, 2))
    for block in (net, other):
        block.cast("float16")
    write_checkpoint(path, parameters(net), META)
    read_checkpoint(path, parameters(other))
    assert [v.dtype for v in values(other)] == [np.float16] * 2
    assert same(values(net), values(other))


def test_same_content_gives_the_same_bytes(path, tmp_path):
    net = dense((3, 2))
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, parameters(net), META, STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def refused(path, net, message: str, **options) -> None:
    """Check a refusal: one line that starts with the file, and an unchanged net."""
    before = values(net)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(path, parameters(net), **options)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert same(values(net), before)


def test_a_missing_file_is_named(path):
    refused(path, dense((2, 2)), "there is no such checkpoint")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 2)], "holds 4 parameters, the net has 2"),
        (
            [(2, 2), (3, 2)],
            r"parameter 2 has shape \(2, 2\), the net's 'dense.*weight'",
        ),
    ],
)
def test_another_net_is_refused(path, shapes, message):
    write_checkpoint(path, parameters(dense((2, 2), (2, 2))), META)
    refused(path, dense(*shapes), message)


def test_who_reads_may_refuse(path):
    def accept(meta, state):
        raise ValueError(f"{path}: epoch {meta['epoch']} is not wanted")

    write_checkpoint(path, parameters(dense((2, 2))), META)
    refused(path, dense((2, 2)), "epoch 3 is not wanted", accept=accept)


def test_another_format_is_refused(path):
    rewritten(path, {"format": 9, "meta": {}})
    refused(path, dense((2, 2)), "format is 9; allowed: 2")


def rewritten(path, header, **arrays) -> None:
    """Write a checkpoint's arrays as NumPy does."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with open(path, "wb") as file:
        np.savez(file, meta=np.frombuffer(text, np.uint8), **arrays)


def test_a_pickle_of_an_earlier_version_is_never_opened(path, monkeypatch):
    """The parameters are plain arrays and can still be exported."""
    monkeypatch.setattr("pickle.loads", None)
    net = dense((1, 1))
    rewritten(
        path,
        {"format": 1, "meta": META},
        states=np.frombuffer(b"cos\nsystem\n", np.uint8),
        p0000=np.full((1, 1), 5, np.float32),
        p0001=np.zeros(1, np.float32),
    )
    meta, state = read_checkpoint(path, parameters(net))
    assert meta == META
    assert values(net)[0] == [[5]]
    with pytest.raises(ValueError, match="pickle.*train anew") as error:
        check_resumable(path, state)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) - len(str(path)) < 300


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 3000,
        b'{"format": 2, "meta": {"epoch": 1' + b"0" * 5000 + b"}}",
        b'{"format": 2, "meta": {}, "meta": {}}',
        b'{"format": 2, "meta": []}',
        b'{"format": 2, "meta": {"epoch": NaN}}',
        b"[]",
    ],
)
def test_a_crafted_header_is_refused(path, header):
    rewritten(path, header)
    refused(path, dense((2, 2)), "not a complete checkpoint")


def test_an_array_of_objects_is_refused(path):
    with open(path, "wb") as file:
        np.savez(file, p0000=np.array([{}], dtype=object))
    refused(path, dense((2, 2)), "p0000")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_no_numbers_are_refused(path, value):
    net = dense((1, 1))
    net[0].bias.set_data(nd.array([value]))
    write_checkpoint(path, parameters(net), META)
    refused(path, dense((1, 1)), "0001")


def test_another_type_of_number_is_refused(path):
    net = dense((1, 1))
    net.cast("float16")
    write_checkpoint(path, parameters(net), META)
    refused(path, dense((1, 1)), "parameter 0 is float16")


def array_file() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def other_archive() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no zip", array_file(), other_archive(), b"PK\x05\x06" + b"\0" * 18],
)
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    refused(path, dense((2, 2)), "not a complete checkpoint")


def test_a_folder_is_refused(path):
    path.mkdir()
    refused(path, dense((2, 2)), "not a complete checkpoint")


def test_every_cut_is_noticed(path):
    net = dense((3, 2))
    write_checkpoint(path, parameters(net), META, STATE)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        refused(path, net, "not a complete checkpoint")


def test_a_changed_byte_is_noticed_or_harmless(path):
    net, other, draw = dense((3, 2)), dense((3, 2)), random.Random(0)
    write_checkpoint(path, parameters(net), META, STATE)
    whole, start, messages = path.read_bytes(), values(other), []
    for _ in range(150):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            content = read_checkpoint(path, parameters(other))
        except ValueError as error:
            messages.append(str(error))
            assert same(values(other), start)
        else:
            # What a zip keeps beside the content, its dates for instance, may differ.
            assert is_content(content)
            assert same(values(other), values(net))
            for parameter, value in zip(parameters(other), start):
                parameter.set_data(nd.array(value))
    assert len(messages) > 100
    assert {m[: m.index(" (")] for m in messages} == {
        f"{path}: not a complete checkpoint"
    }
    assert not any("\n" in m for m in messages)


def test_a_failed_write_leaves_the_old_checkpoint(path):
    net = dense((2, 2))
    write_checkpoint(path, parameters(net), META)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_checkpoint(path, parameters(net), {"epoch": object()})
    assert path.read_bytes() == before
