"""Cut points against brute force, and both halves against the whole net."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

import gluon_compress as gc
from center_net import small_detector
from gluon_compress.graph import block_of, pair_of
from gluon_compress.graph.symbols import take_apart
from gluon_compress.splitting.cuts import dominators, jpeg_bytes
from nets import chain, residual
from runtimes import classifier, detector


def all_paths(nodes, heads, source):
    """Yield the tensors of every path from the source to a head."""
    readers: dict = {}
    for i, node in enumerate(nodes):
        for entry in node["inputs"]:
            readers.setdefault(entry[0], []).append((i, entry[1]))

    def paths(i):
        for head in heads:
            if head[0] == i:
                yield [(i, head[1])]
        for reader, output in readers.get(i, ()):
            for rest in paths(reader):
                yield [(i, output), *rest]

    yield from paths(source)


def brute_force(nodes, heads, source):
    """Return the tensors on all paths, without those that no operator is behind."""
    paths = list(all_paths(nodes, heads, source))
    common = set.intersection(*map(set, paths)) if paths else set()
    followed = {t for path in paths for t in path[:-1]}
    return sorted(t for t in common if t[0] != source and t in followed)


def random_net(seed):
    """Return a random graph: sums, a split in three, outputs anywhere."""
    rng = np.random.RandomState(seed)
    tensors = [mx.sym.var("data")]
    for _ in range(rng.randint(3, 9)):
        near = tensors[-3:] if rng.rand() < 0.7 else tensors
        x = near[rng.randint(len(near))]
        kind = rng.randint(5)
        if kind == 0:
            parts = mx.sym.split(x, num_outputs=2, axis=1)
            tensors += [parts[0], parts[1]]
        elif kind == 1:
            tensors.append(x + near[rng.randint(len(near))])
        else:
            tensors.append(mx.sym.relu(x))
    last = [tensors[rng.randint(len(tensors) // 2, len(tensors))] for _ in range(2)]
    return mx.sym.Group(last if rng.rand() < 0.5 else last[:1])


@pytest.mark.parametrize("seed", range(40))
def test_cut_points_are_the_tensors_on_all_paths(seed):
    nodes, heads = take_apart(random_net(seed))
    source = [i for i, n in enumerate(nodes) if n["op"] == "null"][0]
    assert dominators(nodes, heads, source) == brute_force(nodes, heads, source)


def test_random_nets_have_none_some_and_many_cut_points():
    counts = set()
    for seed in range(40):
        nodes, heads = take_apart(random_net(seed))
        counts.add(len(dominators(nodes, heads, 0)))
    assert {0, 1, 2} <= counts


def outputs_of(net, batch):
    outputs = net(batch)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [output.asnumpy() for output in outputs]


def inputs_of(net, count=2):
    shape = gc.graph.input_shape(net)
    noise = np.random.RandomState(1).standard_normal((count, *shape[1:]))
    return mx.nd.array(noise.astype(np.float32))


@pytest.mark.parametrize("make", [detector, classifier, small_detector])
def test_head_and_tail_together_are_the_net(make):
    net = make()
    batch, points = inputs_of(net), gc.split(net)
    whole = outputs_of(block_of(*pair_of(net)), batch)
    for place in {0, len(points) // 2, len(points) - 1}:
        halves = gc.split(net, place)
        sent = halves.head(batch)
        assert sent.shape[1:] == halves.point.shape
        for ours, theirs in zip(outputs_of(halves.tail, sent), whole):
            np.testing.assert_array_equal(ours, theirs)


def test_macs_of_both_sides_are_those_of_the_net():
    net = classifier()
    macs = gc.count(gc.trace(net)).macs
    points = gc.split(net)
    assert all(p.head_macs + p.tail_macs == macs == points.macs for p in points)
    assert [p.head_macs for p in points] == sorted(p.head_macs for p in points)
    first = points[0]  # 3x3, stride 2, of 32 x 48 pixels
    assert first.head_macs == 27 * first.shape[0] * 16 * 24


def test_bytes_count_bits():
    net = chain()
    net.initialize()
    point = gc.split(net, shape=(1, 3, 8, 8))[0]
    assert point.shape == (8, 8, 8)
    assert [point.bytes(bits) for bits in (32, 16, 8, 4)] == [2048, 1024, 512, 256]


def test_a_shortcut_is_no_place_to_cut():
    net = residual()
    net.initialize()
    points = gc.split(net, shape=(1, 3, 8, 8))
    graph = gc.trace(net, (1, 3, 8, 8))
    layers = [n["name"] for n in graph.nodes if n["op"] == "Convolution"]
    assert len(layers) == 3  # the stem, and two beside the shortcut
    assert [p.node for p in points if p.node in layers] == layers[:1]
    assert points[-1].shape == (8, 8, 8)  # behind the sum


class SizedByImage(nn.HybridBlock):
    """Its last layer looks at the size of the image, and of an earlier map."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.a, self.b = nn.Conv2D(4, 3, padding=1), nn.Conv2D(2, 3, strides=2)

    def hybrid_forward(self, F, x):
        early = self.a(x)
        late = F.UpSampling(self.b(early), scale=3, sample_type="nearest")
        late = F.slice_like(late, early, axes=(2, 3))
        return F.broadcast_add(late, F.zeros_like(F.slice_axis(x, 1, 0, 1)))


def test_what_is_only_measured_need_not_cross():
    net = SizedByImage()
    net.initialize()
    batch = mx.nd.random.uniform(shape=(2, 3, 9, 9))
    net(batch)
    points = gc.split(net, shape=(1, 3, 9, 9))
    assert "conv1" in [p.name.split("_")[-1] for p in points]
    halves = gc.split(net, at=points[1].name, shape=(1, 3, 9, 9))
    np.testing.assert_array_equal(
        halves.tail(halves.head(batch)).asnumpy(), net(batch).asnumpy()
    )


def test_a_quantised_tensor_is_cut_behind_its_quantiser():
    net = gc.quantize(classifier(), {}, [(mx.nd.random.uniform(shape=(2, 3, 32, 48)),)])
    batch = inputs_of(net)
    at = next(p.name for p in gc.split(net) if "relu" in p.name)
    halves = gc.split(net, at)
    levels = np.unique(halves.head(batch).asnumpy())
    assert len(levels) <= 256
    whole = outputs_of(block_of(*pair_of(net)), batch)
    (ours,) = outputs_of(halves.tail, halves.head(batch))
    np.testing.assert_array_equal(ours, whole[0])


def test_jpeg_is_measured_on_given_images():
    plain = np.full((32, 48, 3), 90, np.uint8)
    noisy = np.random.RandomState(0).randint(0, 255, (32, 48, 3)).astype(np.uint8)
    assert jpeg_bytes([plain]) < jpeg_bytes([plain, noisy]) < jpeg_bytes([noisy])
    points = gc.split(classifier(), images=[plain, noisy])
    assert points.raw_bytes == 3 * 32 * 48
    assert points.jpeg_bytes == jpeg_bytes([plain, noisy])
    assert "JPEG" in str(points)


@pytest.mark.parametrize(
    ("at", "words"),
    [("no_such", "no_such"), (99, "99"), (-1, "-1"), (True, "True"), ("data", "data")],
)
def test_a_place_that_is_none_is_refused_in_one_line(at, words):
    with pytest.raises(ValueError, match="^at is ") as error:
        gc.split(small_detector(), at)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_net_of_two_images_is_refused():
    a, b = mx.sym.var("a"), mx.sym.var("b")
    with pytest.raises(ValueError, match="a, b"):
        gc.split((mx.sym.relu(a + b), {}), shape={"a": (1, 2), "b": (1, 2)})


def test_names_do_not_depend_on_how_many_nets_were_built():
    nets = [gc.build("cifar_resnet20_v1", ("a", "b"), size=(8, 8)) for _ in range(2)]
    tables = [str(gc.split(net)) for net in nets]
    assert tables[0] == tables[1]
