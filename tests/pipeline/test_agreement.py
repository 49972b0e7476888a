"""What ranks must agree on before a recipe runs; the others are stand-ins."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gluon_compress.distributed import SCRATCH, Ranks
from gluon_compress.pipeline.agreement import (
    agree_on_files,
    agree_on_recipe,
    agree_on_start,
    copied,
    images_of,
    scratch,
)
from gluon_compress.storage.locks import LOCK
from nets import chain, ready
from recipes import QUIET, recipe_in

pytestmark = pytest.mark.usefixtures("tiny_nets")


class Pair(Ranks):
    """Rank 0 of two; the other one differs from it by some facts."""

    size = 2

    def __init__(self, **differs) -> None:
        self.differs, self.facts = differs, {}

    def exchange(self, what, value=None, payload=b"", how=None):
        self.facts = value
        other = {**value, **self.differs}
        return [value, {k: v for k, v in other.items() if v is not None}], payload


def job_like(ranks, images, recipe):
    options = SimpleNamespace(**{**vars(QUIET), "ranks": ranks})
    splits = SimpleNamespace(train=images, val=images, test=images)
    return SimpleNamespace(
        options=options, classes=images.classes, splits=splits, recipe=recipe
    )


class Images:
    classes = ("cat", "dog")

    def __init__(self, names, label=1.0):
        self.names, self.number = names, label

    def __len__(self):
        return len(self.names)

    def path(self, index):
        return f"/data/{self.names[index]}"

    def label(self, index):
        return np.full((1, 6), self.number, np.float32)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("seed", 1), ("mxnet", "1.8"), ("commit", "abc"), ("kvstore", "dist_device_sync")],
)
def test_ranks_of_another_recipe_or_code_stop(tmp_path, fact, value):
    recipe = recipe_in(tmp_path)
    options = SimpleNamespace(**{**vars(QUIET), "ranks": Pair(**{fact: value})})
    with pytest.raises(ValueError, match=f"^rank 1: {fact} is {value}, that of rank 0"):
        agree_on_recipe(recipe, options)


def test_every_key_of_a_recipe_counts(tmp_path):
    ranks = Pair()
    options = SimpleNamespace(**{**vars(QUIET), "ranks": ranks})
    agree_on_recipe(recipe_in(tmp_path), options)
    first = ranks.facts
    agree_on_recipe(recipe_in(tmp_path).replace(hours=9.0), options)
    changed = [name for name in first if first[name] != ranks.facts[name]]
    assert changed == ["the recipe's 'hours'"]


def test_a_rank_that_lacks_a_checkpoint_stops_all(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "last.ckpt").write_bytes(b"123")
    (tmp_path / "full" / LOCK).write_bytes(b"")
    ranks = Pair()
    agree_on_files(tmp_path, ranks)
    name = str(tmp_path / "full" / "last.ckpt")
    assert ranks.facts == {name: "3 bytes"}
    with pytest.raises(ValueError, match="^rank 1: .*last.ckpt is missing, that of ra"):
        agree_on_files(tmp_path, Pair(**{name: None}))
    agree_on_files(tmp_path / "new", Pair())


def test_images_are_known_by_names_and_labels():
    told = images_of(Images(["a.jpg", "b.jpg"]))
    assert told.startswith("2, ")
    others = [
        Images(["a.jpg", "c.jpg"]),
        Images(["b.jpg", "a.jpg"]),
        Images(["a.jpg", "b.jpg"], label=2.0),
        Images(["a.jpg"]),
    ]
    assert len({told, *map(images_of, others)}) == 5
    assert images_of(Images(["a.jpg", "b.jpg"])) == told


def test_ranks_with_other_images_or_values_stop(tmp_path):
    recipe, images = recipe_in(tmp_path), Images(["a.jpg"])
    net, ranks = ready(chain()), Pair()
    agree_on_start(job_like(ranks, images, recipe), [net, net])
    names = ("the train images", "the values of the model")
    assert set(names) < set(ranks.facts)
    for name in names:
        job = job_like(Pair(**{name: "other"}), images, recipe)
        with pytest.raises(ValueError, match=f"^rank 1: {name} is other, that of rank"):
            agree_on_start(job, [net, net])
    before = dict(ranks.facts)
    parameter = next(iter(net.collect_params().values()))
    parameter.set_data(parameter.data() + 1)
    agree_on_start(job_like(ranks, images, recipe), [net, net])
    assert ranks.facts["the values of the model"] != before["the values of the model"]


def test_a_teacher_is_known_by_its_manifest(tmp_path):
    recipe = recipe_in(tmp_path, distillation={"teacher": str(tmp_path / "teacher")})
    ranks, net = Pair(), ready(chain())
    agree_on_start(job_like(ranks, Images(["a"]), recipe), [net, net])
    assert ranks.facts[f"the teacher {tmp_path / 'teacher'}"] is None
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "manifest.json").write_text("{}")
    agree_on_start(job_like(ranks, Images(["a"]), recipe), [net, net])
    assert ranks.facts[f"the teacher {tmp_path / 'teacher'}"] is not None


def test_other_ranks_work_on_a_copy(tmp_path, monkeypatch):
    out = tmp_path / "run"
    (out / "full").mkdir(parents=True)
    (out / "full" / "last.ckpt").write_bytes(b"123")
    (out / LOCK).write_bytes(b"")
    monkeypatch.setenv(SCRATCH, str(tmp_path))
    with scratch() as folder:
        own = copied(out, tmp_path / folder, True)
        assert own != out
        assert (own / "full" / "last.ckpt").read_bytes() == b"123"
        assert not (own / LOCK).exists()
    assert not own.exists()
    assert not copied(out, tmp_path / "other", False).exists()


def test_nothing_is_asked_of_a_process_alone(tmp_path):
    options = replace(QUIET)
    agree_on_recipe(None, options)
    agree_on_files(tmp_path, options.ranks)
    agree_on_start(SimpleNamespace(options=options), [])
    assert not [*tmp_path.iterdir()]
