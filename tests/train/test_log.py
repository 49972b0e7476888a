from __future__ import annotations

import json

import numpy as np
import pytest

from gluon_compress.train import LOG, fit, read_log
from gluon_compress.train.log import log_line
from training import QUIET, SHORT, Batches, conv_net, cross_entropy


def write_log(path, tail: str = ""):
    records = [{"kind": "step", "step": step} for step in range(5)]
    records.insert(2, {"kind": "validation", "epoch": 1, "mAP": 0.25})
    path.write_text("\n".join(map(json.dumps, records)) + "\n" + tail)
    return path


def test_log_is_read_in_its_two_kinds(tmp_path):
    steps, validations = read_log(write_log(tmp_path / "log.jsonl"))
    assert [record["step"] for record in steps] == list(range(5))
    assert [record["mAP"] for record in validations] == [0.25]


@pytest.mark.parametrize("tail", ['{"kind": "st', '{"kind": "step"', '"step"', "{}"])
def test_cut_last_line_is_left_out(tmp_path, tail):
    steps, validations = read_log(write_log(tmp_path / "log.jsonl", tail))
    assert (len(steps), len(validations)) == (5, 1)


def test_broken_line_before_the_last_is_named(tmp_path):
    path = write_log(tmp_path / "log.jsonl", '{"kind":\n{"kind": "step"}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl: line 7 "):
        read_log(path)


def test_missing_log_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: "):
        read_log(tmp_path / "none.jsonl")


def test_log_holds_what_a_training_writes(tmp_path):
    fit(conv_net(), Batches(1), cross_entropy, SHORT, tmp_path, options=QUIET)
    steps, _ = read_log(tmp_path / LOG)
    assert [set(record["parts"]) for record in steps] == [{"half"}, {"half"}]


def test_what_is_not_finite_is_logged_as_null(tmp_path):
    record = {"kind": "step", "step": 0, "loss": np.nan, "parts": {"box": np.inf}}
    (tmp_path / LOG).write_text(log_line(record))
    (read,), _ = read_log(tmp_path / LOG)
    assert (read["loss"], read["parts"]) == (None, {"box": None})
