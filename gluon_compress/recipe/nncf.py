"""Reads NNCF's configuration files of the 2.x line, as rows of a recipe.

The files are JSON, of training samples in PyTorch: which algorithms compress a model,
and how. ``converted`` names every key that it does not know or cannot honour, with the
reason, also those of the training sample itself: data sets, paths, devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from gluon_compress.validation import listed, shown, wrong

UNKNOWN = "not a key that is known here"
TRAINING = "of the training sample: a recipe states this in its own keys"
SCOPES = ("ignored_scopes", "target_scopes")
# Keys that decide nothing of the compression.
NEUTRAL = ("model", "input_info", "target_device", "disable_shape_matching", "$schema")
SAMPLE = {
    *("dataset", "dataset_dir", "num_classes", "pretrained", "weights", "workers"),
    *("save_freq", "print_freq", "test_interval", "max_iter", "iter_size", "device"),
    *("log_dir", "checkpoint_save_dir", "model_params", "basenet", "criterion"),
    *("ssd_params", "preprocessing", "train_imgs", "train_anno", "test_imgs"),
    *("test_anno", "multiprocessing_distributed", "eval_batch_size", "seed"),
    *("criterion_params", "save_metric_path", "validate_every_n_epochs"),
}
KINDS = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "an object {...}",
}


@dataclass(frozen=True)
class Converted:
    """What a configuration file becomes.

    Parameters
    ----------
    rows : tuple of dict
        For the key ``compression`` of a recipe.
    distillation : dict or None
        Settings of the last training's teacher, as of a classifier's recipe.
    problems : tuple of (str, str)
        Keys that are not honoured, and why.
    """

    rows: Tuple[Dict[str, Any], ...]
    distillation: Dict[str, Any] | None
    problems: Tuple[Tuple[str, str], ...]


@dataclass
class _Keys:
    """The keys of an object that are not read yet."""

    content: Dict[str, Any]
    place: str
    problems: List[Tuple[str, str]] = field(default_factory=list)

    def take(self, key: str, default: Any = None, kind: Any = None) -> Any:
        """Return and remove a value, or the default, which null stands for too."""
        value = self.content.pop(key, None)
        if value is None:
            return default
        if kind is None:
            return value
        kinds = (int, float) if kind is float else (kind,)
        is_bool = isinstance(value, bool) and kind is not bool
        if is_bool or not isinstance(value, kinds):
            raise wrong(self.at(key), value, KINDS[kind])
        return value

    def choose(self, key: str, default: str, names: Mapping[str, Any]) -> Any:
        """Return what a name stands for; one that is not there is a problem."""
        value = self.take(key, default, str)
        if value not in names:
            reason = f"{shown(value)} has no counterpart; allowed: {listed(names)}"
            self.problem(key, reason)
        return names.get(value, names[default])

    def within(self, key: str) -> _Keys:
        """Return the keys of an object in this one; none if it is missing."""
        content = dict(self.take(key, {}, dict) or {})
        return _Keys(content, self.at(key), self.problems)

    def at(self, key: str) -> str:
        """Return the dotted name of a key."""
        return f"{self.place}.{key}" if self.place else key

    def problem(self, key: str, reason: str) -> None:
        """Note that a key is not honoured."""
        self.problems.append((self.at(key), reason))

    def expect(self, key: str, usual: Any, reason: str) -> None:
        """Note a key that is not honoured unless it has its usual value."""
        if self.take(key, usual) != usual:
            self.problem(key, reason)

    def refuse(self, keys: Sequence[str], reason: str) -> None:
        """Note those of some keys that are there."""
        for key in keys:
            if self.take(key) is not None:
                self.problem(key, reason)

    def end(self, reason: str = UNKNOWN) -> None:
        """Note all keys that were not read."""
        self.refuse(list(self.content), reason)


@dataclass(frozen=True)
class _Training:
    """What the file says of training."""

    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    optimizer: str | None
    scopes: Mapping[str, str]

    def row(self, **changes: Any) -> Dict[str, Any]:
        """Return the schedule of a row, empty if the file states no epochs."""
        if self.epochs is None:
            return {}
        stated = {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "optimizer": self.optimizer,
        }
        values = {"epochs": self.epochs, **stated, **changes}
        return {"train": {k: v for k, v in values.items() if v is not None}}

    def batches(self, samples: float) -> int:
        """Return how many batches hold so many samples."""
        return math.ceil(samples / (self.batch_size or 8))


def converted(content: Any, scopes: Mapping[str, str] | None = None) -> Converted:
    """Return the rows of a recipe that a configuration of NNCF stands for.

    Parameters
    ----------
    content : JSON value
    scopes : mapping, optional
        NNCF's scopes, names of layers in PyTorch, to patterns of layers here. A scope
        that is not there is a problem.

    Raises
    ------
    ValueError
        One line, for a value of a wrong type, an unknown algorithm, or no compression.
    """
    if not isinstance(content, dict):
        raise wrong("the content", content, "an object {...} as NNCF has it")
    keys = _Keys(dict(content), "")
    for key in NEUTRAL:
        keys.take(key)
    training = _training(keys, scopes or {})
    rows, distillation = _rows(keys, training)
    _accuracy_aware(keys, rows)
    keys.refuse([key for key in keys.content if key in SAMPLE], TRAINING)
    keys.end()
    in_order = sorted(rows, key=lambda row: ORDER.index(row["algorithm"]))
    if in_order != rows:
        keys.problem("compression", "rows are in another order: pruning comes first")
    return Converted(tuple(in_order), distillation, tuple(keys.problems))


def _rows(keys: _Keys, training: _Training) -> Tuple[List[Dict[str, Any]], Any]:
    """Return rows in the file's order, and settings of a teacher or None."""
    algorithms = keys.take("compression")
    values = [algorithms] if isinstance(algorithms, dict) else algorithms
    if not isinstance(values, list) or not values:
        raise wrong("compression", algorithms, "an algorithm {...}, or a list of some")
    shared = {key: _list(keys.take(key)) for key in SCOPES}
    rows, distillation = [], None
    for i, value in enumerate(values):
        place = f"compression[{i}]" if values is algorithms else "compression"
        if not isinstance(value, dict):
            raise wrong(place, value, KINDS[dict])
        row = _Keys(dict(value), place, keys.problems)
        name = row.take("algorithm")
        if not isinstance(name, str) or name not in ALGORITHMS:
            raise wrong(f"{place}.algorithm", name, listed(ALGORITHMS))
        if name == DISTILLATION:
            distillation = _distillation(row, training)
        else:
            for key in SCOPES:
                row.content[key] = [*shared[key], *_list(row.take(key))]
            rows.append(ALGORITHMS[name](row, training))
        row.refuse(["compression_lr_multiplier"], "all parameters have one rate")
        row.end()
    if not rows:
        raise wrong("compression", algorithms, "an algorithm that compresses")
    return rows, distillation


def _list(value: Any) -> List[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _training(keys: _Keys, scopes: Mapping[str, str]) -> _Training:
    optimizer = keys.within("optimizer")
    rate = optimizer.take("base_lr", kind=float)
    kind = optimizer.take("type", "SGD", str)
    if kind.lower() not in ("sgd", "adam"):
        optimizer.problem("type", f"{shown(kind)}: trainings here are SGD or Adam")
    name = "adam" if kind.lower() == "adam" else None
    optimizer.end(TRAINING)
    epochs = keys.take("epochs", kind=int)
    return _Training(epochs, keys.take("batch_size", kind=int), rate, name, scopes)


def _layers(row: _Keys, training: _Training) -> Dict[str, Any]:
    """Return the patterns of layers that scopes stand for."""
    result: Dict[str, Any] = {}
    for key, name in (("target_scopes", "target"), ("ignored_scopes", "ignored")):
        patterns = []
        for value in _list(row.take(key)):
            if isinstance(value, str) and value in training.scopes:
                patterns.append(training.scopes[value])
            else:
                reason = f"{shown(value)} names layers in PyTorch; say which are meant"
                row.problem(key, reason)
        if patterns:
            result[name] = patterns
    return result


def _adaptation(row: _Keys, training: _Training) -> int:
    """Return the batches on which BatchNorm is measured anew."""
    initializer = row.within("initializer")
    adaptation = initializer.within("batchnorm_adaptation")
    samples = adaptation.take("num_bn_adaptation_samples", 2000, float)
    adaptation.take("num_bn_forget_samples")
    adaptation.end()
    initializer.end()
    return training.batches(samples)


# Quantisation.

RANGES = {
    "min_max": "min-max",
    "mixed_min_max": "mean",
    "mean_min_max": "mean",
    "percentile": "percentile",
    "mean_percentile": "percentile",
}
SCHEMES = {"symmetric": "symmetric", "asymmetric": "asymmetric"}
PRESETS = {"performance": "symmetric", "mixed": "asymmetric"}
OVERFLOW = {"enable": "narrow", "disable": "full", "first_layer_only": "auto"}


def _quantization(row: _Keys, training: _Training) -> Dict[str, Any]:
    made: Dict[str, Any] = {"algorithm": "quantize", **training.row()}
    usual = row.choose("preset", "performance", PRESETS)
    weights, maps = row.within("weights"), row.within("activations")
    made["weights"] = {"ranges": "learned", **_bits(weights)}
    scheme = maps.choose("mode", usual, SCHEMES)
    made["activations"] = {"scheme": scheme, "ranges": "learned", **_bits(maps)}
    weights.expect("mode", "symmetric", "weights are symmetric here")
    weights.expect("per_channel", True, "weights have a scale for each channel here")
    maps.expect("per_channel", False, "maps have one scale here")
    for part in (weights, maps):
        part.take("signed")  # measured here
        part.expect("logarithm_scale", False, "scales are trained as they are")
        part.refuse(SCOPES, "a layer's weight and input are chosen together")
        part.end()
    if "overflow_fix" in row.content:
        if row.content["overflow_fix"] == "first_layer_only":
            row.problem(
                "overflow_fix", "levels are those of all layers; taken for auto"
            )
        made["weights"]["levels"] = row.choose("overflow_fix", "enable", OVERFLOW)
    row.expect("quantize_inputs", True, "inputs of quantised layers are quantised")
    made["outputs"] = row.take("quantize_outputs", False, bool)
    row.take("export_to_onnx_standard_ops")  # the only ones here
    initializer = row.within("initializer")
    ranges = _ranges(initializer)
    samples = ranges.take("num_init_samples", 256, float)
    made["batches"] = max(training.batches(samples), 1)
    made["activations"]["init"] = ranges.choose("type", "mixed_min_max", RANGES)
    params = ranges.within("params")
    params.take("min_percentile")  # as far from the end as the other
    highest = params.take("max_percentile", 99.9, float)
    if made["activations"]["init"] == "percentile":
        made["activations"]["percentile"] = highest
    params.end()
    ranges.end()
    kept = "quantised nets keep BatchNorm's statistics; prune and sparsify measure them"
    initializer.refuse(["batchnorm_adaptation"], kept)
    _precision(initializer, made, training)
    initializer.end()
    row.within("params").end("quantised training has one stage here")
    return {**made, **_layers(row, training)}


def _ranges(initializer: _Keys) -> _Keys:
    """Return how ranges of maps are measured; a list may say that layer by layer."""
    rows = initializer.content.get("range")
    if not isinstance(rows, list):
        return initializer.within("range")
    initializer.take("range")
    chosen = _Keys({}, initializer.at("range"), initializer.problems)
    for i, row in enumerate(rows):
        place = f"{initializer.at('range')}[{i}]"
        if not isinstance(row, dict):
            raise wrong(place, row, KINDS[dict])
        keys = _Keys(dict(row), place, initializer.problems)
        group = keys.take("target_quantizer_group", "activations", str)
        scoped = [key for key in SCOPES if keys.content.get(key)]
        if group == "activations" and not scoped and not chosen.content:
            chosen = keys
        elif group == "weights":
            keys.end("weights have their own largest values")
        else:
            keys.end("all maps are measured alike here")
    return chosen


def _bits(part: _Keys) -> Dict[str, Any]:
    bits = part.take("bits", 8, int)
    if bits in (2, 4, 8):
        return {"bits": bits}
    part.problem("bits", f"{bits}; allowed: 2, 4, 8")
    return {}


def _precision(initializer: _Keys, made: Dict[str, Any], training: _Training) -> None:
    precision = initializer.within("precision")
    kind = precision.take("type", "manual")
    if kind == "hawq":
        made["budget"] = _hawq(precision)
        return
    if kind != "manual":
        reason = f"{shown(kind)}: bits are chosen by sensitivity here, as hawq does"
        precision.problem("type", reason)
        precision.end("see type")
        return
    mixed = {}
    for pair in precision.take("bitwidth_per_scope", [], list):
        if not isinstance(pair, list) or len(pair) != 2:
            allowed = "bits and a scope"
            raise wrong(precision.at("bitwidth_per_scope"), pair, allowed)
        bits, scope = pair
        known = isinstance(scope, str) and scope in training.scopes
        if known and bits in (2, 4, 8):
            mixed[training.scopes[scope]] = {"weights": bits, "activations": bits}
        else:
            reason = f"{shown(pair)} names layers in PyTorch; say which are meant"
            precision.problem("bitwidth_per_scope", reason)
    if mixed:
        made["mixed"] = mixed
    precision.end()


def _hawq(precision: _Keys) -> Dict[str, Any]:
    """Return the budget under which bits of weights are chosen."""
    ratio = precision.take("compression_ratio", 1.5, float)
    if ratio < 1:
        raise wrong(precision.at("compression_ratio"), ratio, "a number from 1")
    budget: Dict[str, Any] = {"bit_operations_ratio": round(1 / ratio, 6)}
    bits = precision.take("bits", [4, 8], list)
    budget["bits"] = [n for n in bits if n in (2, 4, 8)]
    if len(budget["bits"]) < len(bits) or not bits:
        precision.problem("bits", f"{shown(bits)}; allowed: 2, 4, 8")
        budget["bits"] = budget["bits"] or [4, 8]
    if ratio != 1:
        reason = f"{ratio:g}: of weights alone; bits of maps are those stated"
        precision.problem("compression_ratio", reason)
    precision.end("the trace has settings of its own")
    return budget


# Sparsity.


def _magnitude(row: _Keys, training: _Training) -> Dict[str, Any]:
    return _sparsity(row, training, "magnitude")


def _rb(row: _Keys, training: _Training) -> Dict[str, Any]:
    return _sparsity(row, training, "learned")


def _sparsity(row: _Keys, training: _Training, method: str) -> Dict[str, Any]:
    made: Dict[str, Any] = {"algorithm": "sparsify", "method": method, **training.row()}
    if not made.get("train"):
        reason = "the file has no epochs: the share of zeros is final at once"
        row.problem("params", reason)
    params = row.within("params")
    made["level"] = params.take("sparsity_target", 0.5, float)
    made["initial"] = row.take("sparsity_init", 0, float)
    made["growth"] = growth = _growth(params, training, method)
    if "levels" in growth:
        made["initial"], made["level"] = growth["levels"][0], growth["levels"][-1]
    if made["initial"] > made["level"]:
        reason = f"{made['initial']:g}: above the target; taken for 0"
        row.problem("sparsity_init", reason)
        made["initial"] = 0
    if method == "magnitude":
        scopes = {"global": "net", "local": "layer"}
        made["scope"] = params.choose("sparsity_level_setting_mode", "global", scopes)
        ranks = {"normed_abs": True, "abs": False}
        made["normalised"] = params.choose("weight_importance", "normed_abs", ranks)
    params.end()
    made["recalibrate"] = _adaptation(row, training)
    return {**made, **_layers(row, training)}


def _growth(params: _Keys, training: _Training, method: str) -> Dict[str, Any]:
    names = ["polynomial", "exponential", "multistep"]
    if method == "learned":
        names.append("adaptive")
    usual = "exponential" if method == "learned" else "polynomial"
    curve = params.choose("schedule", usual, dict(zip(names, names)))
    growth: Dict[str, Any] = {"curve": curve}
    last = params.take("sparsity_target_epoch", 90, int)
    power = params.take("power", 0.9, float)
    params.expect("concave", True, "the share rises fast at first here")
    steps = _numbers(params, "multistep_steps", [90])
    levels = _numbers(params, "multistep_sparsity_levels", [0.1, 0.5])
    if curve == "polynomial":
        growth["power"] = power
    if curve == "multistep":
        growth.update(steps=steps, levels=levels)
        last = steps[-1] if steps and isinstance(steps[-1], int) else last
    elif curve != "adaptive":
        growth["epochs"] = last
    if training.epochs is not None and last >= training.epochs:
        if curve == "multistep":
            allowed = f"epochs below {training.epochs}"
            raise wrong(params.at("multistep_steps"), steps, allowed)
        if growth.pop("epochs", None) is not None:
            reason = f"{last}: the training has {training.epochs} epochs; taken for "
            params.problem("sparsity_target_epoch", reason + "three quarters of them")
    if params.take("update_per_optimizer_step", False, bool):
        growth["every"] = 1
    params.take("steps_per_epoch")  # known here
    params.refuse(["patience"], "a share that is reached is raised at once")
    reason = "masks follow the weights until the training ends"
    params.refuse(["sparsity_freeze_epoch"], reason)
    return growth


def _numbers(params: _Keys, key: str, default: Sequence[float]) -> List[Any]:
    """Take a list of at least one number."""
    values = params.take(key, default, list)
    if not values or not all(type(value) in (int, float) for value in values):
        raise wrong(params.at(key), values, "a list of numbers")
    return values


def _const(row: _Keys, training: _Training) -> Dict[str, Any]:
    made = {"algorithm": "sparsify", "method": "keep", "recalibrate": 0}
    row.within("params").end()
    row.within("initializer").end("what is zero stays, so nothing has to be measured")
    return {**made, **_layers(row, training)}


# Pruning.

IMPORTANCE = {"L1": "l1", "L2": "l2", "geometric_median": "median"}
RANKINGS = {"unweighted_ranking": "uniform", "learned_ranking": "legr"}


def _pruning(row: _Keys, training: _Training) -> Dict[str, Any]:
    made: Dict[str, Any] = {"algorithm": "prune", **training.row()}
    params = row.within("params")
    made["criterion"] = params.choose("filter_importance", "L2", IMPORTANCE)
    made["selection"] = params.choose(
        "interlayer_ranking_type", "unweighted_ranking", RANKINGS
    )
    if params.take("all_weights", False, bool) and made["selection"] == "uniform":
        made["selection"] = "global"
    made["budget"] = {"macs_ratio": _macs_ratio(params)}
    row.expect("pruning_init", 0, "pruning begins with the whole net here")
    _rounds(params, made, training)
    if made["selection"] == "legr":
        legr = params.within("legr_params")
        made["search"] = {"episodes": legr.take("generations", 400, int)}
        made["effects"] = 0
        reason = "plans are scored without training, drawn by the recipe's seed"
        legr.refuse(["train_steps", "max_pruning", "random_seed"], reason)
        legr.end()
    if params.take("prune_first_conv", False, bool):
        made["ends"] = True
        reason = "true: last layers may lose channels as well here"
        params.problem("prune_first_conv", reason)
    coupled = "coupled layers always lose channels together here"
    if "prune_downsample_convs" in params.content:
        params.expect("prune_downsample_convs", True, coupled)
    params.expect("prune_batch_norms", True, "BatchNorm always loses the same channels")
    coefficients = ("save_ranking_coeffs_path", "load_ranking_coeffs_path")
    params.refuse(coefficients, "a search has a log of its own")
    params.end()
    made["recalibrate"] = _adaptation(row, training)
    layers = _layers(row, training)
    groups = {"target": "groups", "ignored": "leave"}
    return {**made, **{groups[key]: value for key, value in layers.items()}}


def _macs_ratio(params: _Keys) -> float:
    flops = params.take("pruning_flops_target", kind=float)
    target = params.take("pruning_target", 0.5, float)
    for key, value in (("pruning_flops_target", flops), ("pruning_target", target)):
        if value is not None and not 0 < value < 1:
            raise wrong(params.at(key), value, "a number above 0 and below 1")
    if flops is not None:
        return round(1 - flops, 6)
    ratio = round((1 - target) ** 2, 6)
    reason = (
        f"{target:g} of the filters: taken for {ratio:g} of the MACs, about what "
        "layers cost that lose this share of inputs and outputs"
    )
    params.problem("pruning_target", reason)
    return ratio


def _rounds(params: _Keys, made: Dict[str, Any], training: _Training) -> None:
    names = ("exponential", "exponential_with_bias", "baseline")
    curve = params.choose("schedule", "exponential", dict(zip(names, names)))
    steps = params.take("pruning_steps", 100, int)
    params.expect("num_init_steps", 0, "pruning begins in the first epoch here")
    if training.epochs is None:
        params.problem("schedule", "the file has no epochs: channels go at once")
    elif made["selection"] == "legr":
        params.problem("schedule", "a search decides once: channels go at once")
    else:
        count = 1 if curve == "baseline" else min(steps, training.epochs)
        made["rounds"] = {"curve": curve, "count": count}
        if curve != "baseline":
            made["rounds"]["epochs"] = count
            if count < steps:
                reason = f"{steps}: the training has {training.epochs} epochs"
                params.problem("pruning_steps", reason)


# Binarisation, distillation, accuracy.


def _binarization(row: _Keys, training: _Training) -> Dict[str, Any]:
    made: Dict[str, Any] = {"algorithm": "binarize"}
    names = {"xnor": "xnor", "dorefa": "dorefa"}
    made["weights"] = row.choose("mode", "xnor", names)
    params = row.within("params")
    for key, name in (("activations", "activations_from"), ("weights", "weights_from")):
        made[name] = params.take(f"{key}_quant_start_epoch", 1, int)
    drop = params.take("lr_poly_drop_start_epoch", kind=int)
    length = params.take("lr_poly_drop_duration_epochs", 30, int)
    decay = params.take("disable_wd_start_epoch", kind=int)
    rate = params.take("base_lr", training.learning_rate, float)
    params.refuse(["base_wd", "batch_multiplier"], TRAINING)
    params.end()
    if training.epochs is None:
        row.problem("params", "the file has no epochs: all is binary at once")
        made["activations_from"] = made["weights_from"] = 0
    elif drop is None:
        made.update(training.row(learning_rate=rate))
    else:
        made.update(training.row(epochs=drop, learning_rate=rate))
        last = {"epochs": length, "mode": "polynomial", "weight_decay": 0}
        made["last_train"] = {**made["train"], **last}
    if decay is not None and decay != drop:
        reason = f"{decay}: weight decay ends when the rate begins to fall"
        params.problem("disable_wd_start_epoch", reason)
    initializer = row.within("initializer")
    ranges = initializer.within("range")
    samples = ranges.take("num_init_samples", 256, float)
    made["batches"] = max(training.batches(samples), 1)
    ranges.end("scales of inputs have the least squared error")
    initializer.end("a binary net keeps BatchNorm's statistics")
    return {**made, **_layers(row, training)}


def _distillation(row: _Keys, training: _Training) -> Dict[str, Any]:
    made = {"weight": row.take("scale", 1, float)}
    made["temperature"] = row.take("temperature", 1, float)
    kind = row.take("type", "softmax", str)
    if kind != "softmax":
        row.problem("type", f"{shown(kind)}: taken for softmax")
    return made


def _accuracy_aware(keys: _Keys, rows: Sequence[Dict[str, Any]]) -> None:
    """Let the strength of the last row that has one be searched."""
    if "accuracy_aware_training" not in keys.content:
        return
    part = keys.within("accuracy_aware_training")
    mode = part.take("mode", "early_exit", str)
    params = part.within("params")
    drop = params.take("maximal_absolute_accuracy_degradation", kind=float)
    relative = params.take("maximal_relative_accuracy_degradation", kind=float)
    if relative is not None:
        reason = f"{relative:g} percent of the metric: taken for as many points of it"
        params.problem("maximal_relative_accuracy_degradation", reason)
        drop = relative if drop is None else drop
    fit = [
        row
        for row in rows
        if row["algorithm"] == "prune" or row.get("level") is not None
    ]
    if mode != "adaptive_compression_level":
        part.problem("mode", f"{shown(mode)}: a training has a fixed length here")
    elif not fit or not drop:
        part.problem("mode", "no limit, or no row whose strength can be searched")
    else:
        fit[-1]["max_drop"] = drop
    params.end("a trial is a whole training here, at a strength found by bisection")
    part.end()


DISTILLATION = "knowledge_distillation"
ALGORITHMS: Dict[str, Callable[[_Keys, _Training], Dict[str, Any]]] = {
    "quantization": _quantization,
    "magnitude_sparsity": _magnitude,
    "rb_sparsity": _rb,
    "const_sparsity": _const,
    "filter_pruning": _pruning,
    "binarization": _binarization,
    DISTILLATION: _distillation,
}
ORDER = ("prune", "sparsify", "binarize", "quantize")  # of rows
