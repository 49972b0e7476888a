from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest

from gluon_compress.model_folder import Reference, check, export, read_manifest

SHAPE = (1, 3, 6, 6)


def tiny(seed: int = 0) -> tuple[mx.sym.Symbol, dict]:
    """Return a convolution with BatchNorm that ends in two outputs."""
    x = mx.sym.Convolution(mx.sym.var("data"), kernel=(3, 3), num_filter=4, name="conv")
    x = mx.sym.BatchNorm(x, fix_gamma=False, name="bn")
    symbol = mx.sym.Group([mx.sym.relu(x, name="relu"), mx.sym.mean(x, name="mean")])
    shapes, _, states = symbol.infer_shape(data=SHAPE)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    random = np.random.RandomState(seed)
    values = {
        n: mx.nd.array(random.uniform(0.5, 1.5, s))
        for n, s in zip(names, (*shapes, *states))
        if n != "data"
    }
    return symbol, values


def write(folder, seed: int = 0, **options) -> dict:
    symbol, params = tiny(seed)
    info = {"classes": ["a", "b"], "mean": [0.5], "outputs": ["first", "second"]}
    options = {"shape": SHAPE, "info": info, **options}
    return export((symbol, params), folder, "tiny", **options)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "model"
    write(folder)
    return folder


def copy_of(exported, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def contents_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_manifest_states_inputs_outputs_and_files(exported):
    manifest = read_manifest(exported)
    assert manifest["format"] == 1
    assert manifest["input"] == {"name": "data", "shape": [1, 3, 6, 6]}
    assert manifest["outputs"] == [
        {"name": "first", "shape": [1, 4, 4, 4]},
        {"name": "second", "shape": [1]},
    ]
    assert manifest["classes"] == ["a", "b"]
    assert manifest["max_difference"]["relative"] <= 1e-5
    sizes = {name: f["bytes"] for name, f in manifest["files"].items()}
    assert sizes == {
        p.name: p.stat().st_size
        for p in exported.iterdir()
        if p.name != "manifest.json"
    }


# MXNet's own import declares the input without a type.
@pytest.mark.filterwarnings("ignore:Cannot decide type for:UserWarning")
def test_files_load_as_a_symbol_block(exported):
    symbol, params = tiny()
    net = mx.gluon.SymbolBlock.imports(
        str(exported / "tiny-symbol.json"), ["data"], str(exported / "tiny-0000.params")
    )
    own = {p.name: p.data().asnumpy() for p in net.collect_params().values()}
    assert all(np.array_equal(own[n], v.asnumpy()) for n, v in params.items())


def test_files_load_as_a_checkpoint(exported):
    _, arguments, states = mx.model.load_checkpoint(str(exported / "tiny"), 0)
    assert set(arguments) == {"conv_weight", "conv_bias", "bn_gamma", "bn_beta"}
    assert set(states) == {"bn_moving_mean", "bn_moving_var"}


def test_check_passes_on_what_was_written(exported):
    differences = check(exported)
    assert set(differences) == {"first", "second"}
    assert all(d["relative"] <= 1e-5 for d in differences.values())


def test_check_compares_with_a_given_reference(exported):
    inputs = np.zeros((2, *SHAPE[1:]), np.float32)
    wrong = (np.ones((2, 4, 4, 4), np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="output 'first' differs from the net"):
        check(exported, Reference(inputs, wrong))


@pytest.mark.parametrize("name", ["tiny-symbol.json", "tiny-0000.params"])
def test_altered_file_is_named(exported, tmp_path, name):
    folder = copy_of(exported, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name + ": altered"):
        check(folder)


def test_missing_file_is_named(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    (folder / "tiny-0000.params").unlink()
    with pytest.raises(ValueError, match="tiny-0000.params: .* missing"):
        check(folder)


def test_newer_format_is_refused(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(ValueError, match=r"manifest\.json: format is 2"):
        check(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../x": {"sha256": 64 * "0", "bytes": 1}}, r"files.*\.\./x.*allowed: names"),
        ({"x": {"sha256": "abc", "bytes": 1}}, "x.sha256 is 'abc'; allowed: 64 hex"),
        ({"x": {"bytes": 1}}, "files.x.sha256: this key is missing"),
        (["x"], r"files is \['x'\]; allowed: an object"),
    ],
    ids=["outside", "sum", "none", "list"],
)
def test_sums_of_anything_but_files_in_the_folder_are_refused(
    exported, tmp_path, files, message
):
    folder = copy_of(exported, tmp_path)
    content = {**read_manifest(folder), "files": files}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"manifest.json: .*{message}"):
        check(folder)


def test_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.json: there is no such file"):
        check(tmp_path)


def test_new_export_replaces_the_earlier_one(tmp_path):
    first = write(tmp_path / "model")
    second = write(tmp_path / "model", seed=1)
    name = "tiny-0000.params"
    assert first["files"][name] != second["files"][name]
    assert read_manifest(tmp_path / "model")["files"] == second["files"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_wrong_reference_leaves_the_earlier_export(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    before = read_manifest(folder)
    inputs = np.zeros(SHAPE, np.float32)
    outputs = (np.ones((1, 4, 4, 4), np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match="differs from the net"):
        write(folder, reference=Reference(inputs, outputs))
    assert read_manifest(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_foreign_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"'thesis\.tex'"):
        write(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_place_that_cannot_be_written_is_named_itself():
    with pytest.raises(OSError, match="/proc/model") as error:
        write("/proc/model")
    assert error.value.filename == "/proc/model"


def test_file_beside_an_export_is_not_replaced(exported, tmp_path):
    folder = copy_of(exported, tmp_path)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"'notes\.txt'"):
        write(folder)


@pytest.mark.parametrize(
    ("there", "new"), [("ssd", "classifier"), ("ssd", None), (None, "ssd")]
)
def test_export_of_another_kind_is_not_replaced(tmp_path, there, new):
    kinds = {kind: {"kind": kind} if kind else {} for kind in (there, new)}
    folder = tmp_path / "model"
    write(folder, info=kinds[there])
    before = contents_of(folder)
    message = f"model: .* kind is {there!r}; allowed: {new!r}; choose a new folder"
    with pytest.raises(ValueError, match=message):
        write(folder, seed=1, info=kinds[new])
    assert contents_of(folder) == before
    write(folder, seed=1, info=kinds[there])
    assert contents_of(folder) != before


def test_missing_parameter_is_named(tmp_path):
    symbol, params = tiny()
    del params["bn_moving_var"]
    with pytest.raises(ValueError, match="bn_moving_var"):
        export((symbol, params), tmp_path / "m", "tiny", shape=SHAPE, info={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameter_that_is_not_finite_is_named(tmp_path, value):
    symbol, params = tiny()
    params["bn_gamma"][1] = value
    with pytest.raises(ValueError, match="bn_gamma.*finite"):
        export((symbol, params), tmp_path / "net", shape=SHAPE)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_parameter_of_another_type_is_named(tmp_path, kind):
    symbol, params = tiny()
    params["conv_weight"] = params["conv_weight"].astype(kind)
    with pytest.raises(ValueError, match=f"conv_weight.*{kind}"):
        export((symbol, params), tmp_path / "net", shape=SHAPE)


def test_shape_that_does_not_follow_from_the_input_is_that_of_the_value(tmp_path):
    scaled = mx.sym.broadcast_mul(mx.sym.var("data"), mx.sym.var("scale"))
    params = {"scale": mx.nd.ones((1, 3, 1, 1))}
    manifest = export((mx.sym.relu(scaled), params), tmp_path / "net", shape=SHAPE)
    assert manifest["outputs"][0]["shape"] == list(SHAPE)


def test_info_cannot_hide_what_the_manifest_states(tmp_path):
    with pytest.raises(ValueError, match="info holds 'files'"):
        write(tmp_path / "m", info={"files": {}})


def test_name_with_a_path_is_refused(tmp_path):
    symbol, params = tiny()
    with pytest.raises(ValueError, match=r"export name '\.\./x'"):
        export((symbol, params), tmp_path / "m", "../x", shape=SHAPE, info={})


def test_block_is_exported_as_what_it_computes(tmp_path):
    net = mx.gluon.nn.Dense(3, in_units=4)
    net.initialize()
    manifest = export(net, tmp_path / "dense", shape=(2, 4))
    assert manifest["name"] == "model"
    inputs = np.ones((2, 4), np.float32)
    own = Reference(inputs, (net(mx.nd.array(inputs)).asnumpy(),))
    assert check(tmp_path / "dense", own)


def test_block_without_values_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no value: initialise the net"):
        export(mx.gluon.nn.Dense(3, in_units=4), tmp_path / "dense", shape=(2, 4))
    assert not (tmp_path / "dense").exists()


def test_export_does_not_tell_how_often_the_net_was_called(tmp_path):
    symbol, params = tiny()
    counted = mx.sym.load_json(symbol.tojson().replace(", 0, 0]", ", 0, 7]"))
    assert counted.tojson() != symbol.tojson()
    once, often = (
        export((each, params), tmp_path / name, "tiny", shape=SHAPE)
        for name, each in (("once", symbol), ("often", counted))
    )
    assert once["files"] == often["files"]
