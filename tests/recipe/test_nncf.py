"""NNCF's configuration files as rows of a recipe; the files are our own."""

from __future__ import annotations

import copy
import json

import pytest

from gluon_compress.cli.nncf import RECIPE
from gluon_compress.compression.controller import Compression
from gluon_compress.recipe.nncf import converted
from gluon_compress.validation import parse

PRUNED = {
    "model": "ssd_vgg",
    "input_info": {"sample_size": [1, 3, 300, 300]},
    "epochs": 60,
    "batch_size": 16,
    "dataset": "voc",
    "optimizer": {"type": "Adam", "base_lr": 0.001, "schedule_params": {"gamma": 1}},
    "compression": {
        "algorithm": "filter_pruning",
        "pruning_init": 0.1,
        "params": {
            "schedule": "exponential",
            "pruning_target": 0.4,
            "pruning_steps": 20,
            "filter_importance": "geometric_median",
        },
        "ignored_scopes": ["SSD/head[0]", "SSD/head[1]"],
    },
}
CHAIN = {
    "epochs": 100,
    "batch_size": 32,
    "target_device": "CPU",
    "compression": [
        {
            "algorithm": "quantization",
            "preset": "mixed",
            "overflow_fix": "disable",
            "initializer": {"range": {"num_init_samples": 320, "type": "min_max"}},
            "activations": {"bits": 4},
            "weights": {"bits": 6, "mode": "asymmetric"},
        },
        {
            "algorithm": "magnitude_sparsity",
            "sparsity_init": 0.1,
            "params": {
                "schedule": "multistep",
                "multistep_steps": [10, 20],
                "multistep_sparsity_levels": [0.1, 0.4, 0.6],
                "weight_importance": "abs",
                "sparsity_level_setting_mode": "local",
                "sparsity_freeze_epoch": 90,
            },
            "initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 640}},
        },
        {"algorithm": "knowledge_distillation", "type": "softmax", "scale": 3},
    ],
}


def rows_of(content, scopes=None) -> tuple[list, dict]:
    made = converted(content, scopes)
    parse(Compression, {"compression": list(made.rows)})
    return list(made.rows), dict(made.problems)


def test_a_pruned_detector_with_every_key_that_is_not_honoured():
    scopes = {"SSD/head[0]": "predictor*"}
    (row,), problems = rows_of(PRUNED, scopes)
    assert row == {
        "algorithm": "prune",
        "train": {
            "epochs": 60,
            "batch_size": 16,
            "learning_rate": 0.001,
            "optimizer": "adam",
        },
        "criterion": "median",
        "selection": "uniform",
        "budget": {"macs_ratio": 0.36},
        "rounds": {"curve": "exponential", "count": 20, "epochs": 20},
        "recalibrate": 125,
        "leave": ["predictor*"],
    }
    assert set(problems) == {
        "optimizer.schedule_params",
        "dataset",
        "compression.pruning_init",
        "compression.params.pruning_target",
        "compression.ignored_scopes",
    }
    assert "'SSD/head[1]'" in problems["compression.ignored_scopes"]


def quantized(initializer: dict) -> tuple[dict, dict]:
    row = {"algorithm": "quantization", "initializer": initializer}
    (made,), problems = rows_of({"compression": row})
    return made, problems


def test_bits_are_chosen_under_the_ratio_that_hawq_states():
    hawq = {"type": "hawq", "bits": [4, 8, 6], "compression_ratio": 1.6, "tolerance": 1}
    row, problems = quantized({"precision": hawq})
    assert row["budget"] == {"bit_operations_ratio": 0.625, "bits": [4, 8]}
    place = "compression.initializer.precision."
    assert set(problems) == {
        f"{place}{key}" for key in ("bits", "compression_ratio", "tolerance")
    }
    row, problems = quantized({"precision": {"type": "autoq", "bits": [2, 4]}})
    assert "budget" not in row
    assert f"{place}type" in problems


def test_ranges_by_list_are_those_of_all_maps():
    place = "compression.initializer.range"
    weights = {"type": "min_max", "target_quantizer_group": "weights"}
    some = {"type": "min_max", "target_scopes": ["{re}.*"]}
    maps = {"type": "mean_min_max", "num_init_samples": 16}
    row, problems = quantized({"range": [weights, some, maps]})
    assert (row["activations"]["init"], row["batches"]) == ("mean", 2)
    assert set(problems) == {
        f"{place}[0].type",
        f"{place}[1].type",
        f"{place}[1].target_scopes",
    }


def test_a_chain_comes_in_an_order_that_works():
    made = converted(CHAIN)
    rows, problems = rows_of(CHAIN)
    assert [row["algorithm"] for row in rows] == ["sparsify", "quantize"]
    sparsify, quantize = rows
    assert sparsify["level"] == 0.6
    assert sparsify["initial"] == 0.1
    assert sparsify["growth"] == {
        "curve": "multistep",
        "steps": [10, 20],
        "levels": [0.1, 0.4, 0.6],
    }
    assert (sparsify["scope"], sparsify["normalised"]) == ("layer", False)
    assert sparsify["recalibrate"] == 20
    assert quantize["weights"] == {"ranges": "learned", "levels": "full"}
    assert quantize["activations"]["bits"] == 4
    assert quantize["activations"]["scheme"] == "asymmetric"
    assert quantize["activations"]["init"] == "min-max"
    assert quantize["batches"] == 10
    assert made.distillation == {"weight": 3, "temperature": 1}
    assert set(problems) == {
        "compression",
        "compression[0].weights.bits",
        "compression[0].weights.mode",
        "compression[1].params.sparsity_freeze_epoch",
    }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"algorithm": "rb_sparsity", "params": {"sparsity_target": 0.7}},
            {"method": "learned", "level": 0.7},
        ),
        (
            {"algorithm": "rb_sparsity", "params": {"schedule": "adaptive"}},
            {"growth": {"curve": "adaptive"}},
        ),
        ({"algorithm": "const_sparsity"}, {"method": "keep"}),
        (
            {
                "algorithm": "filter_pruning",
                "params": {
                    "interlayer_ranking_type": "learned_ranking",
                    "pruning_flops_target": 0.3,
                    "legr_params": {"generations": 100},
                },
            },
            {
                "selection": "legr",
                "budget": {"macs_ratio": 0.7},
                "search": {"episodes": 100},
            },
        ),
        (
            {
                "algorithm": "binarization",
                "mode": "dorefa",
                "params": {
                    "activations_quant_start_epoch": 10,
                    "weights_quant_start_epoch": 30,
                    "lr_poly_drop_start_epoch": 60,
                    "lr_poly_drop_duration_epochs": 25,
                    "disable_wd_start_epoch": 60,
                },
            },
            {
                "weights": "dorefa",
                "activations_from": 10,
                "weights_from": 30,
                "train": {"epochs": 60},
                "last_train": {"epochs": 25, "mode": "polynomial", "weight_decay": 0},
            },
        ),
    ],
)
def test_each_algorithm_has_a_row(row, expected):
    (made,), _ = rows_of({"epochs": 95, "compression": row})
    assert {key: made[key] for key in expected} == expected


def test_an_accuracy_that_may_be_lost_is_searched():
    aware = {
        "mode": "adaptive_compression_level",
        "params": {
            "maximal_absolute_accuracy_degradation": 1.5,
            "patience_epochs": 3,
        },
    }
    row = {"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 0.9}}
    content = {"compression": row, "accuracy_aware_training": aware}
    (made,), problems = rows_of(content)
    assert made["max_drop"] == 1.5
    assert "accuracy_aware_training.params.patience_epochs" in problems


def test_unknown_keys_are_named_wherever_they_are():
    row = {"algorithm": "quantization", "a": 1, "initializer": {"b": 2}}
    row["activations"] = {"c": 3}
    _, problems = rows_of({"compression": [row], "d": 4})
    known = {f"compression[0].{key}" for key in ("a", "initializer.b", "activations.c")}
    assert set(problems) == known | {"d"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"the content is \[\]; allowed: an object"),
        ({}, "compression is None; allowed: an algorithm"),
        ({"compression": [3]}, r"compression\[0\] is 3; allowed: an object"),
        (
            {"compression": {"algorithm": "autoq"}},
            "compression.algorithm is 'autoq'; allowed: quantization, magnitude_spars",
        ),
        (
            {"compression": {"algorithm": "knowledge_distillation"}},
            "allowed: an algorithm that compresses",
        ),
        (
            {"compression": {"algorithm": "quantization", "weights": {"bits": "8"}}},
            "compression.weights.bits is '8'; allowed: a whole number",
        ),
        ({"epochs": True, "compression": []}, "epochs is True; allowed: a whole num"),
        (
            {
                "compression": {
                    "algorithm": "filter_pruning",
                    "params": {"pruning_target": 40},
                }
            },
            "compression.params.pruning_target is 40; allowed: a number above 0 and",
        ),
        *(
            (
                {
                    "compression": {
                        "algorithm": "magnitude_sparsity",
                        "params": {"schedule": "multistep", key: value},
                    }
                },
                rf"compression\.params\.{key} is .*; allowed: a list of numbers",
            )
            for key, value in [
                ("multistep_sparsity_levels", []),
                ("multistep_sparsity_levels", [0.1, "0.5"]),
                ("multistep_steps", [None]),
            ]
        ),
    ],
)
def test_what_is_no_configuration_is_one_line(content, message):
    with pytest.raises(ValueError, match=message):
        converted(content)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        (("optimizer",), "type"),
        (("compression", 0, "initializer", "range"), "num_init_samples"),
        (("compression", 0, "initializer", "precision"), "bitwidth_per_scope"),
        (("compression", 0, "initializer", "batchnorm_adaptation"), "num_bn_x"),
        (("compression", 1, "params"), "multistep_steps"),
        (("compression", 1), "sparsity_init"),
    ],
)
def test_null_stands_for_the_default(place, key):
    content: dict = {"epochs": 100, "optimizer": {}, "compression": [{}, {}]}
    content["compression"][0].update(algorithm="quantization")
    params = {"schedule": "multistep"}
    content["compression"][1].update(algorithm="magnitude_sparsity", params=params)
    usual = converted(copy.deepcopy(content))
    part = content
    for name in place:
        part = part.setdefault(name, {}) if isinstance(part, dict) else part[name]
    part[key] = None
    assert converted(content).rows == usual.rows


def test_scope_that_is_no_text_is_a_problem():
    pairs = [[4, ["a"]], [8, {}]]
    precision = {"type": "manual", "bitwidth_per_scope": pairs}
    row = {"algorithm": "quantization", "initializer": {"precision": precision}}
    made = converted({"compression": row}, {"a": "conv*"})
    assert "mixed" not in made.rows[0]
    assert len(made.problems) == 2


def test_recipe_to_change_that_is_a_list_is_refused(tmp_path, call):
    for name, content in (("nncf", PRUNED), ("recipe", [1])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = tmp_path / "nncf.json", tmp_path / "recipe.json"
    status, _, error = call("recipe", "--from-nncf", files[0], "--into", files[1])
    assert status == 2
    assert f"{files[1]} is [1]; allowed: a recipe" in error.splitlines()[-1]


def test_the_command_prints_rows_and_names_keys(tmp_path, capsys):
    path = tmp_path / "nncf.json"
    path.write_text(json.dumps(PRUNED))
    with pytest.raises(SystemExit) as stopped:
        RECIPE.main(["--from-nncf", str(path), "--scope", "SSD/head[0]=predictor*"])
    assert not stopped.value.code
    out, error = capsys.readouterr()
    assert json.loads(out)["compression"][0]["leave"] == ["predictor*"]
    assert f"{path}: compression.pruning_init: " in error
    path.write_text(json.dumps({"compression": {"algorithm": "x"}}))
    with pytest.raises(SystemExit) as stopped:
        RECIPE.main(["--from-nncf", str(path)])
    assert stopped.value.code == 2
    assert "compression.algorithm is 'x'; allowed" in capsys.readouterr().err
