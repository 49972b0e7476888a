from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import requests
from gluoncv.model_zoo.ssd import SSD

import gluon_compress as gc
import servers
import tiny_nets
from gluon_compress import models, zoo
from gluon_compress.model_folder import export, load_symbol
from gluon_compress.models.ssd import training
from gluon_compress.plan import Constraints
from gluon_compress.storage.atomic import read_json, write_json
from gluon_compress.zoo import get, index, weights
from tools.card import card

ROOT = Path(__file__).resolve().parents[2]
DETECTOR, THIN = "ssd_tiny_cats", "thin_cats"
COUNTS = {"params": 1, "macs": 1, "bytes": 1}
FACTS = {"licence": "MIT", "command": "scripts/train.py", "hours": 1.5, "data": "cats"}


@pytest.fixture(scope="module")
def nets():
    """Return a trained detector and a trained classifier: tiny, with random values."""
    names = ["cat", "dog"]
    with pytest.MonkeyPatch.context() as patch:
        tiny_nets.register(patch)
        detector = models.build(tiny_nets.DETECTOR, names, extras=(32, 16, 16))
        small = models.build(tiny_nets.NAME, names, size=32)
    for net in (detector, small):
        for parameter in net.collect_params().values():
            if parameter.grad_req != "null":
                parameter.set_data(parameter.data() + 0.001)
    return detector, small


@pytest.fixture(scope="module")
def made(nets, tmp_path_factory):
    """Return the folder of a zoo with a detector, a classifier and a structure."""
    place = tmp_path_factory.mktemp("zoo")
    exports = tmp_path_factory.mktemp("exports")
    models.save(nets[0], exports / "detector", "compact")
    models.save(nets[1], exports / "thin", "compact")
    metric = zoo.Metric(name="mAP", value=0.5, on="cats test")
    for name, source, kind in (
        (DETECTOR, "detector", "float16"),
        (THIN, "thin", "float16"),
        ("bare", "detector", None),
    ):
        stored = zoo.release(exports / source, place, name, kind=kind)
        size, is_ssd = (300, "ssd") if source == "detector" else (32, "classifier")
        trained = {"metric": metric, "weights": stored} if stored else {}
        own = {"name": name, "kind": is_ssd, "classes": ["cat", "dog"], "size": size}
        zoo.add(zoo.Entry(**own, **COUNTS, **FACTS, **trained), place)
    return place


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """Make a copy of that zoo the package's own; return its folder."""
    place = tmp_path / "package" / "model_zoo"
    shutil.copytree(made, place)
    monkeypatch.setattr(index, "_PLACES", (tmp_path / "package",))
    monkeypatch.delenv(weights.REPO, raising=False)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    return place


@pytest.fixture
def remote(own, tmp_path, monkeypatch):
    """Move the weights of that zoo to a server; return it."""
    with servers.serving() as server:
        for file in own.rglob("*.params"):
            server.files[f"/{file.relative_to(own)}"] = file.read_bytes()
            file.unlink()
        monkeypatch.setenv(weights.REPO, server.url)
        yield server


def values(net) -> dict:
    symbol, params = gc.graph.pair_of(net)
    return {name: value.asnumpy() for name, value in params.items()}


def cached(tmp_path) -> list:
    return sorted((tmp_path / "home" / "models").iterdir())


def predictor(name: str) -> bool:
    return "predictor" in name


def test_detector_comes_as_it_was_but_for_rounding(own, nets):
    net = gc.get_model(DETECTOR, pretrained=True)
    assert isinstance(net, SSD)
    assert tuple(net.classes) == ("cat", "dog")
    image = mx.nd.array(np.random.RandomState(0).randn(1, 3, 300, 300))
    for found, wanted in zip(
        training.training_net(net)(image).values(),
        training.training_net(nets[0])(image).values(),
    ):
        scale = np.abs(wanted.asnumpy()).max()
        assert 0 < np.abs((found - wanted).asnumpy()).max() < 1e-2 * scale


def test_classifier_comes_with_its_classes(own, nets):
    net = gc.get_model(THIN, pretrained=True)
    image = mx.nd.array(np.random.RandomState(0).randn(1, 3, 32, 32))
    assert net.classes == ("cat", "dog")
    np.testing.assert_allclose(
        net(image).asnumpy(), nets[1](image).asnumpy(), atol=1e-3
    )


def test_values_are_float32_again(own):
    net = gc.get_model(DETECTOR, pretrained=True)
    assert {p.dtype for p in net.collect_params().values()} == {np.float32}


def test_folder_of_the_zoo_is_read_in_place_too(own):
    net, got = models.load(own / DETECTOR), gc.get_model(DETECTOR, pretrained=True)
    found, wanted = values(net), values(got)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in found)


def test_detector_takes_a_trunk_of_the_zoo(own):
    trunk = values(gc.get_model(THIN, pretrained=True))
    built = values(models.build("ssd_300_mobilenet0.25", ["cat"], trunk=own / THIN))
    shared = trunk.keys() & built.keys()
    assert shared == {name for name in trunk if "dense" not in name}
    assert all(np.array_equal(trunk[name], built[name]) for name in shared)


def test_weights_take_half_the_room(made):
    stored = mx.nd.load(str(next((made / DETECTOR).glob("*.params"))))
    kinds = {v.ndim > 1: v.dtype for v in stored.values()}
    assert kinds == {True: np.float16, False: np.float32}


def test_structure_comes_without_weights(own):
    a, b = (values(gc.get_model("bare")) for _ in range(2))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_untrained_model_of_a_trained_one_starts_anew(own, nets):
    fresh, trained = values(gc.get_model(DETECTOR)), values(nets[0])
    shift = next(n for n in fresh if n.endswith("beta"))
    assert (fresh[shift] == 0).all()
    assert (trained[shift] != 0).all()


def test_model_without_weights_says_what_makes_them(own):
    with pytest.raises(
        ValueError, match=r"'bare' has no weights.*1\.5 hours.*train\.py"
    ):
        gc.get_model("bare", pretrained=True)


def test_other_classes_keep_all_but_class_predictors(own):
    before = values(gc.get_model(DETECTOR, pretrained=True))
    net = gc.get_model(DETECTOR, pretrained=True, classes=["a", "b", "c"])
    after = values(net)
    assert tuple(net.classes) == ("a", "b", "c")
    assert net.num_classes + 1 == 4
    changed = {n for n in before if not np.array_equal(before[n], after.get(n))}
    assert changed
    assert all(predictor(name) for name in changed)


def test_other_classes_of_as_many_start_anew_too(own):
    before = values(gc.get_model(DETECTOR, pretrained=True))
    after = values(gc.get_model(DETECTOR, pretrained=True, classes=["a", "b"]))
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_other_classes_of_a_classifier(own):
    before = values(gc.get_model(THIN, pretrained=True))
    net = gc.get_model(THIN, pretrained=True, classes=["a", "b", "c"])
    assert net.classes == ("a", "b", "c")
    assert net(mx.nd.zeros((2, 3, 32, 32))).shape == (2, 3)
    after = values(net)
    changed = {n for n in before if not np.array_equal(before[n], after.get(n))}
    assert {n.rsplit("_", 1)[1] for n in changed} == {"weight", "bias"}
    assert len(changed) == 2


def test_base_alone_keeps_the_trunk(own):
    trained = values(gc.get_model(DETECTOR, pretrained=True))
    base = values(gc.get_model(DETECTOR, pretrained_base=True))
    same = {n for n in trained if np.array_equal(trained[n], base[n])}
    trunk = {n for n in trained if n.startswith("tiny")}
    assert set() < trunk <= same
    assert not any(n.endswith("weight") for n in same - trunk)


def test_base_of_a_classifier_is_all_but_its_last_layer(own):
    trained = values(gc.get_model(THIN, pretrained=True))
    base = values(gc.get_model(THIN, pretrained_base=True))
    changed = {n for n in trained if not np.array_equal(trained[n], base[n])}
    assert {n.rsplit("_", 1)[1] for n in changed} <= {"weight", "bias"}
    assert 1 <= len(changed) <= 2


@pytest.mark.parametrize(
    "classes", [[], ["a", "a"], "cat", 7, [None], [""], ["a", 1]], ids=str
)
@pytest.mark.parametrize("name", [DETECTOR, THIN, "ssd_300_mobilenet0.25"])
def test_classes_must_be_distinct(own, name, classes):
    with pytest.raises(ValueError, match="classes.* allowed: a list of distinct names"):
        gc.get_model(name, classes=classes)


def test_classes_may_be_any_series_of_names(own):
    for classes in (np.array(["cat", "dog"]), (name for name in ("cat", "dog"))):
        assert tuple(gc.get_model(DETECTOR, classes=classes).classes) == ("cat", "dog")


@pytest.mark.parametrize(
    "name",
    ["ssd_300_resnet50_v1d", "ssd_300_mobilenet1.0_voc", "ssd_300_resnet50_v1d_coco"],
)
def test_weights_that_were_not_trained_here_name_what_trains_them(name):
    with pytest.raises(ValueError, match=r"about \d+ hours .*scripts/train_ssd\.py"):
        gc.get_model(name, pretrained=True)


def test_weights_of_others_that_cannot_be_fetched(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise requests.ConnectionError("Max retries exceeded")

    monkeypatch.setattr(requests, "get", no_network)
    for name, how in (
        ("mobilenet0.25", {"pretrained": True}),
        ("ssd_300_mobilenet0.25", {"pretrained_base": True}),
    ):
        with pytest.raises(ValueError, match=r"mobilenet0\.25.*fetch.*ConnectionError"):
            gc.get_model(name, root=tmp_path, **how)


def test_structure_that_was_altered_is_named(own):
    file = own / DETECTOR / f"{DETECTOR}-symbol.json"
    content = file.read_bytes()
    for change in (content[:-5], b"", content.replace(b"relu", b"tanh")):
        file.write_bytes(change)
        with pytest.raises(ValueError, match=f"{file}: missing or altered"):
            gc.get_model(DETECTOR)
    file.unlink()
    with pytest.raises(ValueError, match=f"{file}: missing or altered"):
        gc.get_model(DETECTOR)


def test_folder_of_the_zoo_is_an_export_that_is_checked(own):
    load_symbol(own / DETECTOR)
    params = own / DETECTOR / f"{DETECTOR}-0000.params"
    params.write_bytes(params.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{params}: altered or cut short"):
        load_symbol(own / DETECTOR)


def test_devices_are_respected(own):
    devices = [mx.cpu(0), mx.cpu(1)]
    net = gc.get_model(DETECTOR, pretrained=True, ctx=devices)
    assert all(p.list_ctx() == devices for p in net.collect_params().values())
    assert gc.get_model(THIN, ctx=mx.cpu(1)).collect_params()


def test_got_model_can_be_pruned_and_exported(own, tmp_path):
    net = gc.get_model(DETECTOR, pretrained=True)
    graph = gc.trace(net, shape=(1, 3, 300, 300))
    budget = gc.Budget.share(gc.count(graph), macs=0.5)
    plan = gc.select(graph, budget, constraints=Constraints(multiple=8))
    models.save(gc.slim(net, plan), tmp_path / "slim", "slim")
    assert models.load(tmp_path / "slim").classes == net.classes


def test_weights_come_from_the_server_once(remote, tmp_path):
    first = values(gc.get_model(DETECTOR, pretrained=True))
    second = values(gc.get_model(DETECTOR, pretrained=True))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert len(remote.requests) == 1
    assert [p.suffix for p in cached(tmp_path)] == [".params"]


def test_root_is_the_cache(remote, tmp_path):
    gc.get_model(DETECTOR, pretrained=True, root=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").glob(f"{DETECTOR}-0000-*.params"))
    assert not (tmp_path / "home").exists()


def test_folder_can_stand_in_for_a_server(remote, own, tmp_path, monkeypatch):
    source = tmp_path / "mirror"
    for path, content in remote.files.items():
        target = source / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    monkeypatch.setenv(weights.REPO, source.as_uri() + "/")
    assert gc.get_model(DETECTOR, pretrained=True)
    assert not remote.requests


def test_altered_cache_is_fetched_again(remote, tmp_path, caplog):
    gc.get_model(DETECTOR, pretrained=True)
    cached(tmp_path)[0].write_bytes(b"broken")
    assert gc.get_model(DETECTOR, pretrained=True)
    assert "altered" in caplog.text
    assert len(remote.requests) == 2


def test_altered_cache_without_a_server_is_named(remote, tmp_path, monkeypatch):
    gc.get_model(DETECTOR, pretrained=True)
    monkeypatch.delenv(weights.REPO)
    assert gc.get_model(DETECTOR, pretrained=True)
    cached(tmp_path)[0].write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"{weights.REPO}.*fetch"):
        gc.get_model(DETECTOR, pretrained=True)


def test_altered_checkout_is_said_and_left_alone(own, caplog):
    path = next((own / DETECTOR).glob("*.params"))
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="neither in"):
        gc.get_model(DETECTOR, pretrained=True)
    assert "altered" in caplog.text
    assert path.read_bytes() == b"broken"


def test_wrong_weights_of_a_server_leave_nothing(remote, tmp_path):
    for path in remote.files:
        remote.files[path] = bytes(len(remote.files[path]))
    with pytest.raises(ValueError, match="checksum|hash"):
        gc.get_model(DETECTOR, pretrained=True)
    assert not cached(tmp_path)


def test_values_of_another_structure_are_refused(own):
    entry = zoo.read()[THIN]
    other = zoo.load(zoo.find(entry))
    with pytest.raises(ValueError, match=rf"model '{DETECTOR}': .* in its weights"):
        get.load_folder(own / DETECTOR, other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ssd_tiny_cat", "did you mean ssd_tiny_cats"),
        ("resnet50_v1dd", "did you mean .*resnet50_v1d"),
        ("SSD_300_resnet50", "did you mean ssd_300_resnet50_v1"),
        ("?", r"see list_models\(\)"),
        ("", r"see list_models\(\)"),
        (7, r"see list_models\(\)"),
    ],
)
def test_unknown_names_bring_the_nearest(own, name, message):
    with pytest.raises(ValueError, match=message):
        gc.get_model(name)


def test_names_of_gluoncv_are_passed_on(own):
    net = gc.get_model("MobileNet0.25", classes=7)
    net.initialize()
    assert net(mx.nd.zeros((1, 3, 32, 32))).shape == (1, 7)
    assert type(net).__module__.startswith("gluoncv")


def test_base_of_gluoncvs_detectors_can_be_declined(own):
    # By itself GluonCV would fetch it.
    name = "ssd_300_vgg16_atrous_voc"
    assert isinstance(gc.get_model(name, pretrained_base=False), SSD)


def test_settings_of_gluoncv_are_passed_on(own):
    net = gc.get_model("resnet18_v1b", norm_kwargs={"momentum": 0.5})
    assert "momentum=0.5" in repr(net)


def test_detectors_of_build_are_models_too(own):
    net = gc.get_model("ssd_300_mobilenet0.25_lite", classes=["cat"], seed=3)
    assert tuple(net.classes) == ("cat",)
    with pytest.raises(ValueError, match="no weights of its own; pretrained_base"):
        gc.get_model("ssd_300_mobilenet0.25_lite", pretrained=True)


def test_trunk_of_a_full_detector_is_gluoncvs(own, monkeypatch, tmp_path):
    asked = {}

    def stub(name, **how):
        asked.update(how, name=name)
        return models.build(name, ["x", "y"], size=64, seed=5)

    monkeypatch.setattr(get, "gluoncv_model", stub)
    how = {"pretrained_base": True, "root": tmp_path, "classes": ["cat"]}
    net = gc.get_model("ssd_300_mobilenet0.25", **how)
    assert asked == {"name": "mobilenet0.25", "pretrained": True, "root": str(tmp_path)}
    wanted = values(models.build("mobilenet0.25", ["x"], seed=5))
    found = values(net)
    trunk = [
        n for n in found if n.startswith("mobilenet") and n.endswith("conv3_weight")
    ]
    of = next(n for n in wanted if n.endswith("conv3_weight"))
    assert np.array_equal(found[trunk[0]], wanted[of])


def test_settings_that_a_stored_model_has_not_are_named(own):
    with pytest.raises(
        ValueError, match="norm_layer: not a setting of 'ssd_tiny_cats'"
    ):
        gc.get_model(DETECTOR, norm_layer=None)


def test_list_says_what_there_is(own):
    assert gc.list_models() == ["bare", DETECTOR, THIN]
    assert gc.list_models(pretrained=True) == [DETECTOR, THIN]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2; this version reads 1"),
        ({"format": True}, "format is True; this version reads 1"),
        ({"models": 3}, "models is 3"),
        ({"models": [{"name": "a"}]}, r"models\[0\]\.kind: this key is missing"),
    ],
)
def test_index_that_cannot_be_read_is_named(own, change, message):
    path = own / index.NAME
    write_json(path, {**read_json(path), **change})
    with pytest.raises(ValueError, match=rf"index\.json: {message}"):
        gc.get_model(DETECTOR)


def with_first(own, **changes) -> None:
    path = own / index.NAME
    content = read_json(path)
    entry = next(m for m in content["models"] if m["weights"])
    for key, value in changes.items():
        (entry if key in entry else entry["weights"])[key] = value
    write_json(path, content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../out"}, "name"),
        ({"name": "/etc"}, "name"),
        ({"file": "/etc/passwd"}, "file"),
        ({"file": "a/../../b.params"}, "file"),
        ({"file": "a\\b.params"}, "file"),
        ({"file": "%2e%2e/b.params"}, "file"),
        ({"file": "a\0.params"}, "file"),
        ({"sha256": "ab/" * 21 + "a"}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"name": "bare"}, "model 'bare' is there twice"),
    ],
)
def test_index_that_leads_elsewhere_is_refused(own, change, message):
    with_first(own, **change)
    with pytest.raises(ValueError, match=rf"index\.json: .*{message}"):
        gc.list_models()


def test_what_makes_weights_names_what_comes_before_it():
    told = index.training_of("ssd_300_resnet50_v1d_compact_voc")
    recipes = [part.split("--recipe ")[1].split()[0] for part in told.split("; before")]
    assert [Path(path).parent.name for path in recipes] == [
        "ssd_300_resnet50_v1d_compact_voc",
        "resnet50_v1d_imagenet",
        "ssd_300_resnet50_v1d_voc",
        "resnet50_v1d_compact_imagenet",
    ]


def test_index_needs_a_metric_with_weights(own):
    path = own / index.NAME
    content = read_json(path)
    content["models"][1]["metric"] = None
    write_json(path, content)
    with pytest.raises(ValueError, match="with a metric"):
        gc.list_models()


def test_installation_without_an_index_is_named(own):
    (own / index.NAME).unlink()
    with pytest.raises(ValueError, match="the index is missing"):
        gc.list_models()


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
    net = (mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, name="fc"), {})
    net[1]["fc_weight"] = mx.nd.full((2, 3), 1e6)
    net[1]["fc_bias"] = mx.nd.zeros(2)
    export(net, tmp_path / "big", shape=(1, 3))
    with pytest.raises(ValueError, match="fc_weight: .* float16 cannot"):
        zoo.release(tmp_path / "big", tmp_path / "zoo", "big", kind="float16")
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(ValueError, match="kind 'int4' of weights; allowed: float16"):
        zoo.release(tmp_path / "big", tmp_path / "zoo", "big", kind="int4")


def test_cache_respects_mxnet_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    assert weights.cache() == tmp_path / "models"
    monkeypatch.delenv("MXNET_HOME")
    assert weights.cache() == Path("~/.mxnet/models").expanduser()


def test_processes_share_a_cache(remote, own, tmp_path):
    remote.misbehave[f"/{DETECTOR}/{DETECTOR}-0000.params"] = [servers.slow(0.02)]
    context, entry = multiprocessing.get_context("fork"), zoo.read()[DETECTOR]
    running = [context.Process(target=zoo.find, args=(entry,)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 3
    assert len(remote.requests) == 1
    assert len(cached(tmp_path)) == 1


# The zoo that is shipped.
ENTRIES = list(zoo.read().values())


def shipped(*, trained: bool):
    chosen = [e for e in ENTRIES if (e.weights is not None) == trained]
    return pytest.mark.parametrize("entry", chosen, ids=[e.name for e in chosen])


def pair_of(entry, shape: tuple) -> tuple:
    """Return the symbol of a shipped model and its weights, or zeros without any."""
    folder = index.folder() / entry.name
    if entry.weights is not None:
        return load_symbol(folder)
    symbol = mx.sym.load(str(folder / f"{entry.name}-symbol.json"))
    arguments, _, states = symbol.infer_shape(data=shape)
    shapes = {
        **dict(zip(symbol.list_arguments(), arguments)),
        **dict(zip(symbol.list_auxiliary_states(), states)),
    }
    return symbol, {n: mx.nd.zeros(s) for n, s in shapes.items() if n != "data"}


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_shipped_structure_costs_what_the_index_says(entry):
    shape = (1, 3, entry.size, entry.size)
    found = gc.count(gc.trace(pair_of(entry, shape), shape=shape))
    assert (found.params, found.macs, found.bytes) == (
        entry.params,
        entry.macs,
        entry.bytes,
    )


@shipped(trained=True)
def test_shipped_weights_are_here_and_intact(entry, tmp_path, monkeypatch):
    monkeypatch.delenv(weights.REPO, raising=False)
    path = zoo.find(entry, tmp_path)
    assert path.stat().st_size == entry.weights.bytes
    assert not list(tmp_path.iterdir())


@shipped(trained=True)
def test_shipped_metric_is_that_of_the_result(entry):
    result = read_json(zoo.index.folder() / entry.name / "result.json")
    assert list(result["released"].values())[-1] == entry.metric.value
    last = list(result["stages"].values())[-1]
    assert abs(last[entry.metric.name] - entry.metric.value) <= 1e-3
    assert all(last[key] == getattr(entry, key) for key in COUNTS)


def test_shipped_zoo_is_small_enough_to_clone():
    files = [p for p in (ROOT / "model_zoo").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 120e6


def test_shipped_index_is_ordered():
    content = json.loads((ROOT / "model_zoo" / index.NAME).read_text("utf-8"))
    names = [model["name"] for model in content["models"]]
    assert names == sorted(names)


@pytest.mark.parametrize("entry", ENTRIES, ids=[e.name for e in ENTRIES])
def test_shipped_card_is_made_from_the_index(entry):
    folder = ROOT / "model_zoo" / entry.name
    assert (folder / "README.md").read_text("utf-8") == card(entry, folder)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (["a"], {}, r"model \['a'\] is unknown; see list_models"),
        (DETECTOR, {"ctx": mx.gpu(0)}, r"ctx gpu\(0\): cannot be used"),
    ],
)
def test_names_and_devices_that_cannot_be_are_refused(own, name, more, message):
    with pytest.raises(ValueError, match=message) as error:
        gc.get_model(name, **more)
    assert len(str(error.value).splitlines()) == 1
