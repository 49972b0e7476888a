"""Sparse nets: masks in the symbol that everything looks through, and small files."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest

import gluon_compress as gc
from gluon_compress.cost import count
from gluon_compress.deployment.folding import fold
from gluon_compress.graph import pair_of, trace
from gluon_compress.sparsity import SparsitySettings
from gluon_compress.sparsity.sparsifying import sparse_layers
from nets import SHAPE, batch, chain, depthwise, ready, residual


@pytest.fixture(scope="module")
def dense():
    return ready(residual())


@pytest.fixture(scope="module")
def sparse(dense):
    return gc.sparsify(dense, level=0.6, shape=SHAPE)


def zeros_of(net) -> float:
    graph = trace(net, SHAPE)
    values = [v.asnumpy() for n, v in graph.params.items() if n.endswith("weight")]
    return sum((v == 0).sum() for v in values) / sum(v.size for v in values)


def test_the_net_computes_with_zeros_and_counts_as_before(dense, sparse):
    assert zeros_of(sparse) == pytest.approx(0.6, abs=0.002)
    assert count(trace(sparse, SHAPE)).macs == count(trace(dense, SHAPE)).macs
    plain = {n: v for n, v in pair_of(sparse)[1].items() if not n.endswith("_mask")}
    expected = dense(batch())
    assert not np.allclose(sparse(batch()).asnumpy(), expected.asnumpy(), atol=1e-3)
    net = ready(residual())
    for p, (_, value) in zip(net.collect_params().values(), plain.items()):
        p.set_data(value)
    assert np.allclose(net(batch()).asnumpy(), sparse(batch()).asnumpy(), atol=1e-6)


def test_masks_are_cut_with_channels(sparse):
    graph = trace(sparse, SHAPE)
    group = next(g for g in graph.groups if not g.frozen)
    plan = gc.Plan({group.name: list(range(1, group.width))})
    small, masked = gc.slim(sparse, plan), gc.mask(sparse, plan)
    assert np.allclose(
        small(batch()).asnumpy(), masked(batch()).asnumpy(), atol=1e-5, rtol=1e-4
    )
    for name, value in pair_of(small)[1].items():
        if name.endswith("_mask"):
            weight = pair_of(small)[1][name[: -len("_mask")]]
            assert value.shape == weight.shape


def test_folding_keeps_zeros_and_drops_masks(sparse):
    _, params = fold(*pair_of(sparse), SHAPE)
    assert not any(name.endswith("_mask") for name in params)
    sizes = [v.size for n, v in params.items() if n.endswith("weight")]
    zeros = [(v == 0).sum().asscalar() for n, v in params.items() if "weight" in n]
    assert sum(zeros) / sum(sizes) == pytest.approx(0.6, abs=0.002)


def test_quantisers_round_what_masks_leave(sparse):
    small = gc.quantize(sparse, {"weights": {"levels": "full"}}, [(batch(),)])
    _, params = fold(*pair_of(small), SHAPE)
    zeros = [(v == 0).mean().asscalar() for n, v in params.items() if "weight" in n]
    assert max(zeros) > 0.6
    other = gc.sparsify(
        gc.quantize(ready(chain()), None, [(batch(),)], shape=SHAPE), level=0.5
    )
    _, params = fold(*pair_of(other), SHAPE)
    weights = [v.asnumpy() for n, v in params.items() if "weight" in n]
    share = sum((w == 0).sum() for w in weights) / sum(w.size for w in weights)
    assert share >= 0.5


def test_patterns_need_whole_blocks(dense):
    graph = trace(dense, SHAPE)
    settings = SparsitySettings(pattern="2:4")
    chosen = {layer.weight for layer in sparse_layers(graph, settings)}
    shapes = {n: v.shape for n, v in graph.params.items() if n.endswith("weight")}
    assert chosen == {n for n, shape in shapes.items() if shape[1] % 4 == 0}
    with pytest.raises(ValueError, match=r"pattern 7:9: no layer is left to make"):
        gc.sparsify(dense, pattern="7:9", shape=SHAPE)


def test_what_cannot_work_is_one_line(dense, sparse):
    with pytest.raises(ValueError, match="target: pattern 'x\\*' matches no layer"):
        gc.sparsify(dense, level=0.5, target=["x*"], shape=SHAPE)
    with pytest.raises(ValueError, match="allowed: patterns of the layers that have m"):
        gc.sparsify(sparse, level=0.5)
    with pytest.raises(ValueError, match="method is 'learned'; allowed: magnitude or"):
        gc.sparsify(dense, {"method": "learned", "level": 0.5}, shape=SHAPE)
    with pytest.raises(ValueError, match="levl: no such key; allowed: method, level"):
        gc.sparsify(dense, {"levl": 0.5}, shape=SHAPE)
    net = ready(chain())
    net[0][0].weight.data()[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="weight of 'conv0' holds NaN"):
        gc.sparsify(net, level=0.5, shape=SHAPE)


def test_files_are_small_and_exact(tmp_path):
    net = gc.sparsify(ready(depthwise()), level=0.9, normalised=False, shape=SHAPE)
    net, controller = gc.compress(net, [{"algorithm": "quantize"}], [(batch(),)])
    rows = controller.export(tmp_path, formats=["packed"], images=batch().asnumpy())
    assert rows["formats"]["packed"]["steps"] <= 1


def test_the_packed_file_of_a_sparse_net_is_what_the_notes_say(tmp_path):
    rows = [{"algorithm": "sparsify", "level": 0.9}]
    net, controller = gc.compress(ready(chain()), rows, [(batch(),)])
    made = controller.export(tmp_path, formats=["mxnet", "packed"])
    assert made["formats"]["packed"]["difference"] < 1e-6
    size = (tmp_path / "runtimes" / "model-packed.bin").stat().st_size
    notes = controller.notes[0]["sparsity"]
    assert json.dumps(controller.notes)
    assert notes["level"] == pytest.approx(0.9, abs=0.002)
    names = 8 + 40 * 10  # heads of tensors
    assert size < notes["packed_bytes"] + names
    assert notes["packed_bytes"] < 0.4 * notes["float32_bytes"]
    rows = [{"algorithm": "delete", "keep": {"conv1": 0.5}, "multiple": 1}]
    _, other = gc.compress(ready(chain()), rows, [(batch(),)])
    with pytest.raises(ValueError, match="format 'packed' makes nothing smaller"):
        other.export(tmp_path / "b", formats=["packed"])


def test_zeros_stay_zero_in_later_training(sparse):
    before = {n: v.asnumpy() for n, v in pair_of(sparse)[1].items() if "mask" in n}
    copy = gc.slim(sparse, None)
    trainer = mx.gluon.Trainer(
        copy.collect_params(), "sgd", {"learning_rate": 0.1, "wd": 0.1, "momentum": 0.9}
    )
    for _ in range(3):
        with mx.autograd.record():
            loss = copy(batch()).square().sum()
        loss.backward()
        trainer.step(1)
    assert zeros_of(copy) == pytest.approx(0.6, abs=0.002)
    after = {n: v.asnumpy() for n, v in pair_of(copy)[1].items() if "mask" in n}
    for one, other in zip(before.values(), after.values()):
        assert np.array_equal(one, other)
