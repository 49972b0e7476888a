"""A small, fixed share of ``scripts/fuzz.py``, in this process."""

from __future__ import annotations

import random

import pytest

from gluon_compress.storage.reading import read_json
from tools.damage import DAMAGES
from tools.fuzz import ACCEPTED, REFUSED, damaged, judged
from tools.fuzz_samples import make_samples

KINDS = ("plan", "sensitivity", "table", "recipe", "index", "log", "checkpoint")
KINDS += ("image", "voc", "coco", "records", "zip", "tar", "result", "detections")
TRIALS = 12


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return make_samples(tmp_path_factory.mktemp("samples") / "new", KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_refused_or_read(samples, kind, tmp_path):
    sample = samples[kind]
    sample.write(tmp_path / "sound", sample.files)
    assert judged(sample, tmp_path / "sound") == ACCEPTED
    others = [data for each in samples.values() for data in each.files.values()]
    for trial in range(TRIALS):
        folder = tmp_path / str(trial)
        folder.mkdir()
        damaged(sample, others, random.Random(f"{kind} {trial}"), folder)
        assert judged(sample, folder) in (ACCEPTED, REFUSED)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_seed_decides_the_damage(damage):
    data = b'{"a": [1, 2, {"b": "text"}]}' * 1
    first, second = (DAMAGES[damage](data, random.Random(1), b"x") for _ in range(2))
    assert first == second


def test_other_exceptions_and_long_lines_are_bad(samples, tmp_path):
    from dataclasses import replace

    def long(folder):
        raise ValueError("x" * 400)

    outcomes = [
        judged(replace(samples["plan"], read=read), tmp_path)
        for read in (lambda folder: {}["a"], long, lambda folder: read_json("none"))
    ]
    assert outcomes[0].startswith("KeyError")
    assert outcomes[1].startswith("a line of 400")
    assert outcomes[2] == REFUSED
