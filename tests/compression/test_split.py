"""The row ``split``: what it refuses, and a training that resumes exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import gluon_compress as gc
from gluon_compress import models, pipeline
from gluon_compress.compression.split import Split
from gluon_compress.graph import pair_of
from gluon_compress.pipeline.stages import compress
from gluon_compress.recipe import parse_recipe
from gluon_compress.splitting.bottleneck import ENCODER_END, is_bottleneck_parameter
from gluon_compress.storage.atomic import read_json
from images import write_folder
from recipes import QUIET, job_of, quick_run

STEPS = {"epochs": 2, "batch_size": 3, "learning_rate": 0.001, "optimizer": "adam"}
RECIPE = {
    "paper": "none, a test",
    "command": "pytest",
    "hours": 0.01,
    "expected": {},
    "task": "classification",
    "model": {"name": "cifar_resnet20_v1"},
    "data": {"kind": "folder", "size": 32, "root": "images"},
    "train": {**STEPS, "epochs": 1},
}
STEM, STAGE = "cifarresnetv0_batchnorm0", "cifarresnetv0_stage2_activation2"
ROW = {"algorithm": "split", "after": STEM, "at": STAGE, "form": "small"}
ROW = {**ROW, "train": STEPS}
PRUNE = {"algorithm": "prune", "budget": {"macs_ratio": 0.5}, "multiple": 1}


def recipe(*rows, **changes):
    return parse_recipe({**RECIPE, **changes, "compression": list(rows)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 16}, "channels is 16; allowed: a whole number from 1 to 15"),
        ({"channels": 0}, "channels is 0"),
        ({"bits": 5}, "bits is 5"),
        ({"form": "huge"}, "form is 'huge'"),
        ({"method": "hnd", "stages": ["x"]}, "stages is"),
        ({"between": 1}, "between"),
        ({"train": None}, "finetune is None"),
    ],
)
def test_a_bad_setting_is_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        recipe({**ROW, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"after": "x"}, "after is 'x'; allowed: a tensor that alone crosses"),
        ({"after": STAGE, "at": STEM}, "at is"),
        ({"at": STEM}, "at is"),
        ({"at": "cifarresnetv0_dense0"}, "at is"),
        ({"stages": ["x"]}, "stages is 'x'"),
        ({"stages": [STEM]}, "stages is"),
    ],
)
def test_what_does_not_fit_the_net_is_found_before_any_training(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        pipeline.decide(recipe({**ROW, **changes}), ["a", "b", "c"])
    assert "\n" not in str(error.value)


def test_two_bottlenecks_are_refused():
    with pytest.raises(ValueError, match="rows of 'split' before it"):
        recipe(ROW, ROW)


def test_pruning_goes_before_and_behind():
    _, figures = pipeline.decide(recipe(PRUNE, ROW), ["a", "b", "c"])
    _, again = pipeline.decide(recipe(ROW, PRUNE, finetune=STEPS), ["a", "b", "c"])
    assert again["compact"]["macs"] < 0.55 * figures["full"]["macs"] * 12
    assert again["compact"]["macs"] < figures["compact"]["macs"]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    write_folder(folder / "images", train=2, val=2)
    data = {**RECIPE["data"], "root": str(folder / "images")}
    options = replace(QUIET, save_minutes=0, resume=True)
    return job_of(recipe(ROW, data=data), folder, options)


@pytest.fixture(scope="module")
def teacher(job):
    return job.task.build(job.classes)[0]


@pytest.fixture(scope="module")
def output(job, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return compress(job, teacher, job.recipe.compression[0], folder)


def test_only_the_bottleneck_has_learnt(teacher, output):
    before, after = pair_of(teacher)[1], pair_of(output.net)[1]
    own = {name for name in after if is_bottleneck_parameter(name)}
    assert len(own) == 8 + 7 * 4 + 4  # convolutions, and BatchNorms with four arrays
    for name in set(after) - own:
        np.testing.assert_array_equal(after[name].asnumpy(), before[name].asnumpy())
    start = Split().dry_run(teacher, recipe(ROW).compression[0], Seeded()).net
    start = pair_of(start)[1]
    moved = [n for n in own if (start[n].asnumpy() != after[n].asnumpy()).any()]
    assert set(moved) == own


class Seeded:
    seed = 0


def test_notes_say_what_is_sent(output):
    notes = output.notes
    assert notes["tensor"] == {"name": ENCODER_END, "shape": [3, 20, 20]}
    assert notes["stages"] == [STAGE, STAGE.replace("2", "3", 1)]
    sent = notes["sent"]
    assert sent["none"] == 3 * 20 * 20
    assert 0 < sent["deflate"] < sent["none"]
    assert sent["images"] == 6
    assert notes["epochs"] == 2


class Stop(Exception):
    """Ends a training from inside."""


def test_a_killed_training_ends_as_one_that_was_not(
    job, teacher, output, monkeypatch, tmp_path
):
    row = job.recipe.compression[0]
    module = __import__("gluon_compress.compression.split", fromlist=["split"])
    make = module.trunk_lesson
    with monkeypatch.context() as patch:

        def stopping(*args, **options):
            lesson, steps = make(*args, **options), iter(range(100))

            def step_loss(net, batch):
                if next(steps) == 3:  # the last but one
                    raise Stop
                return lesson.step_loss(net, batch)

            return replace(lesson, step_loss=step_loss)

        patch.setattr(module, "trunk_lesson", stopping)
        with pytest.raises(Stop):
            compress(job, teacher, row, tmp_path)
    resumed = compress(job, teacher, row, tmp_path)
    first, second = (pair_of(o.net)[1] for o in (output, resumed))
    for name, value in first.items():
        np.testing.assert_array_equal(value.asnumpy(), second[name].asnumpy(), name)


@pytest.mark.slow
def test_a_run_ends_with_the_row_and_its_net_is_loaded(job, tmp_path):
    out = tmp_path / "run"
    results = quick_run(job.recipe, out, facts={"commit": "abc"})
    assert list(results["stages"]) == ["full", "1_split"]
    net = models.load(out / "1_split" / "model")
    assert ENCODER_END in [p.name for p in gc.split(net)]
    stored = read_json(out / "1_split" / "result.json")
    assert stored["sent"]["none"] == 3 * 20 * 20
    assert set(results["latency"]) == {"full", "1_split"}
