"""Copies of a net on several devices or ranks, and the parts of batches they see."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import mxnet as mx
import numpy as np
import pytest

from gluon_compress import data
from gluon_compress.distributed.sums import GRID, on_grid
from gluon_compress.train import Schedule, fit
from gluon_compress.train.replicas import Part, part_of, share_values
from training import (
    ONE_STEP,
    QUIET,
    SHORT,
    Batches,
    Fixed,
    conv_net,
    cross_entropy,
    outcome,
    same,
    values,
)

TWO = replace(QUIET, ctx=(mx.cpu(0), mx.cpu(1)))


class Rank:
    """A rank that exchanges nothing with others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.leads = rank, size, rank == 0


class Pictures:
    classes = ("a", "b")

    def __init__(self, count: int) -> None:
        self.read: list = []
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        self.read.append(index)
        return np.full((4, 4, 3), index, np.uint8), index % 2


def sample(image, label, *, rng):
    return image + rng.integers(50, dtype=np.uint8), label


def batches(pictures, **options):
    make = partial(data.Batches, pictures, sample, workers=0, seed=3, last="fill")
    return make(options.pop("batch_size", 6), **options)


def arrays(batches, epoch: int = 1) -> list:
    return [[a.asnumpy() for a in batch] for batch in batches.epoch(epoch)]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("mixed", [False, True])
def test_parts_of_batches_are_the_batches_whatever_the_number_of_ranks(ranks, mixed):
    options = {}
    if mixed:
        options = {"mix": data.Mixup(0.5), "targets": data.ClassTargets(2)}
    whole = arrays(batches(Pictures(16), **options))
    parts = [
        arrays(batches(Pictures(16), **options).part(rank, ranks))
        for rank in range(ranks)
    ]
    assert len(whole) == 3
    for number, batch in enumerate(whole):
        for place, array in enumerate(batch):
            together = np.concatenate([part[number][place] for part in parts])
            assert np.array_equal(together, array)


def test_each_rank_reads_its_images_alone():
    pictures = [Pictures(12) for _ in range(3)]
    for rank, each in enumerate(pictures):
        arrays(batches(each).part(rank, 3))
    read = [index for each in pictures for index in each.read]
    assert sorted(read) == list(range(12))


def test_mixing_reads_partners_too_but_no_more():
    pictures = Pictures(12)
    options = {"mix": data.Mixup(0.5), "targets": data.ClassTargets(2)}
    arrays(batches(pictures, batch_size=12, **options).part(0, 3))
    assert len(pictures.read) == 8  # 4 of its own, and those at the other end


def test_progressive_batches_have_parts():
    early, late = batches(Pictures(12)), batches(Pictures(12), batch_size=6)
    part = data.ProgressiveBatches(early, late, 1).part(1, 2)
    assert [len(batch[0]) for batch in part.epoch(0)] == [3, 3]
    assert [len(batch[0]) for batch in part.epoch(1)] == [3, 3]


def test_batches_that_cannot_be_divided_are_refused():
    with pytest.raises(
        ValueError, match="batch_size is 6; allowed with 4 workers: a mu"
    ):
        batches(Pictures(12)).part(0, 4)
    rest = data.Batches(Pictures(15), sample, 6, last="keep")
    with pytest.raises(ValueError, match="batch_size is 3; allowed with 2 workers"):
        rest.part(0, 2)
    with pytest.raises(
        ValueError, match="a batch has 5 images; allowed with 2 workers"
    ):
        next(Part(Fixed(mx.nd.ones((5, 1))), 0, 2).epoch(0))


def test_other_batches_are_cut():
    parts = [part_of(Batches(2, size=4), Rank(rank, 2)) for rank in (0, 1)]
    assert len(parts[0]) == 2
    for whole, *cut in zip(Batches(2, size=4).epoch(1), *(p.epoch(1) for p in parts)):
        for place, array in enumerate(whole):
            halves = [half[place].asnumpy() for half in cut]
            assert np.array_equal(np.concatenate(halves), array.asnumpy())
    alone = Batches()
    assert part_of(alone, Rank(0, 1)) is alone


def test_running_statistics_are_averaged_over_devices_after_each_step(tmp_path):
    images = np.float32([[[[1, 3]]], [[[5, 7]]]])

    def net():
        norm = mx.gluon.nn.BatchNorm(in_channels=1, momentum=0.5)
        norm.initialize()
        norm.collect_params().reset_ctx(list(TWO.ctx))
        return norm

    def loss(net, batch):
        return net(batch[0]).sum(), {}

    trained = net()
    fit(trained, Fixed(mx.nd.array(images)), loss, ONE_STEP, tmp_path, options=TWO)
    # Means 2 and 6 of the devices' parts, both with a variance of 1.
    for mean in trained.running_mean.list_data():
        assert mean.asscalar() == pytest.approx(0.5 * 0 + 0.5 * (2 + 6) / 2)
    for variance in trained.running_var.list_data():
        assert variance.asscalar() == pytest.approx(0.5 * 1 + 0.5 * 1)


def test_training_on_two_devices_resumes_exactly(tmp_path):
    def run(folder, schedule: Schedule):
        net = conv_net(0.0)
        net.collect_params().reset_ctx(list(TWO.ctx))
        options = replace(TWO, resume=True)
        fit(net, Batches(3), cross_entropy, schedule, folder, options=options)
        return net

    class Stop(Exception):
        pass

    def stop(net, progress):
        if progress.step == 4:
            raise Stop

    whole = run(tmp_path / "whole", SHORT)
    net = conv_net(0.0)
    net.collect_params().reset_ctx(list(TWO.ctx))
    with pytest.raises(Stop):
        fit(
            net,
            Batches(3),
            cross_entropy,
            SHORT,
            tmp_path / "cut",
            step_callbacks=[stop],
            options=replace(TWO, save_minutes=0),
        )
    assert same(values(run(tmp_path / "cut", SHORT)), values(whole))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_values_of_rank_0_are_taken_where_they_differ():
    sent: dict = {}

    class First(Rank):
        def exchange(self, what, value=None, payload=b"", how=None):
            sent[what] = payload
            return [value, "other"], payload

    class Second(Rank):
        def exchange(self, what, value=None, payload=b"", how=None):
            assert payload == b""
            return ["other", value], sent[what]

    first, second = conv_net(), conv_net()
    for parameter in second.collect_params().values():
        parameter.set_data(parameter.data() + 1)
    share_values(list(first.collect_params().values()), First(0, 2))
    share_values(list(second.collect_params().values()), Second(1, 2))
    assert same(values(first), values(second))


def test_exact_sums_do_not_depend_on_their_order():
    rng = np.random.default_rng(0)
    # Five magnitudes apart, where plain sums differ.
    numbers = (
        rng.standard_normal((5, 200)) * 10.0 ** np.arange(-3, 2)[:, None]
    ).astype(np.float32)
    sent = [on_grid([mx.nd.array(row)]).asnumpy() for row in numbers]
    orders = [rng.permutation(5) for _ in range(20)]
    plain = {sum(numbers[i] for i in order).tobytes() for order in orders}
    exact = {sum(sent[i] for i in order).tobytes() for order in orders}
    assert len(plain) > 1
    assert len(exact) == 1
    assert np.abs(sent - numbers.astype(np.float64)).max() <= GRID / 2
    both = on_grid([mx.nd.array(numbers[0]), mx.nd.array(numbers[1], ctx=mx.cpu(1))])
    assert np.array_equal(both.asnumpy(), sent[0] + sent[1])
