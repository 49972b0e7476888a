from __future__ import annotations

import hashlib
import json
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from gluoncv.data import COCODetection

import servers
from archives import tarred, zipped
from experiments.sets import read_set
from gluon_compress.data import (
    ImageFolder,
    VOCLayout,
    coco_gluoncv,
    voc_gluoncv,
)
from gluon_compress.recipe import load_recipe, parse_recipe
from gluon_compress.storage import archives
from gluon_compress.storage import download as fetching
from gluon_compress.storage.public_datasets import PUBLIC_DATASETS, download_dataset
from refusals import assert_refused

ROOT = Path(__file__).resolve().parents[2]
GLUONCV = ("gluoncv_voc", "coco")  # what recipes call the kinds that it reads


# ---------------------------------------------------------------- tiny archives


def picture() -> bytes:
    return cv2.imencode(".jpg", np.full((30, 40, 3), 90, np.uint8))[1].tobytes()


def annotation(name: str) -> bytes:
    corners = "".join(
        f"<{tag}>{value}</{tag}>"
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (11, 6, 31, 26))
    )
    thing = f"<name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox>"
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation>{size}<object>{thing}</object></annotation>".encode()


def voc(folder: str, name: str, **lists: str) -> dict[str, bytes]:
    """Return the files of a set in VOC's layout, with the images that lists name."""
    files = {
        f"{folder}/ImageSets/Main/{split}.txt": "".join(
            f"{image}\n" for image in images.split()
        ).encode()
        for split, images in lists.items()
    }
    for image in sorted({i for images in lists.values() for i in images.split()}):
        files[f"{folder}/JPEGImages/{image}.jpg"] = picture()
        files[f"{folder}/Annotations/{image}.xml"] = annotation(name)
    return files


def coco(split: str, begin: int) -> tuple[dict[str, bytes], bytes]:
    """Return the images of a split and its annotations: a dog in each image."""
    ids = (begin, begin + 1)
    names = {i: f"{i:012d}.jpg" for i in ids}
    url = f"http://images.cocodataset.org/{split}"
    images = [
        {"id": i, "width": 40, "height": 30, "coco_url": f"{url}/{names[i]}"}
        for i in ids
    ]
    dog = COCODetection.CLASSES.index("dog") + 1
    box = {"bbox": [10, 5, 20, 20], "area": 400, "category_id": dog, "iscrowd": 0}
    rows = [{"id": i, "image_id": i, **box} for i in ids]
    kinds = [{"id": i, "name": n} for i, n in enumerate(COCODetection.CLASSES, 1)]
    stated = {"images": images, "annotations": rows, "categories": kinds}
    files = {f"{split}/{name}": picture() for name in names.values()}
    return files, json.dumps(stated).encode()


def contents(name: str) -> list[bytes]:
    """Return tiny archives in the shape of a set's real ones, in their order."""
    if name == "voc2007":
        folder = "VOCdevkit/VOC2007"
        train = voc(folder, "dog", train="000005", trainval="000005 000007")
        return [tarred(train), tarred(voc(folder, "cat", test="000001 000002"))]
    if name == "voc2012":
        lists = {"trainval": "2008_000002 2008_000003"}
        return [tarred(voc("VOCdevkit/VOC2012", "person", **lists))]
    if name == "bccd":
        whole = "BCCD_Dataset-1.0"
        lists = {"trainval": "BloodImage_00000", "test": "BloodImage_00007"}
        files = voc(f"{whole}/BCCD", "WBC", **lists)
        return [zipped({f"{whole}/README.md": b"blood", **files})]
    if name == "imagenette":
        kinds = ("n01440764", "n02102040")
        names = [f"{s}/{k}/{k}_1.JPEG" for s in ("train", "val") for k in kinds]
        files = {f"imagenette2-160/{n}": picture() for n in names}
        files["imagenette2-160/noisy_imagenette.csv"] = b"path\n"
        return [tarred(files, "w:gz")]
    (train, of_train), (val, of_val) = coco("train2017", 1), coco("val2017", 7)
    stated = {"train2017": of_train, "val2017": of_val}
    files = {f"annotations/instances_{k}.json": v for k, v in stated.items()}
    return [zipped(files), zipped({"val2017/": b"", **val}), zipped(train)]


# ---------------------------------------------------------------- a mirror of them


@pytest.fixture
def server():
    with servers.serving() as made:
        yield made


@pytest.fixture
def offer(server, monkeypatch):
    """Return a function that serves tiny archives and lets a set be of them."""

    def serve(name: str, files: list[bytes] | None = None):
        dataset, tiny = PUBLIC_DATASETS[name], []
        for archive, content in zip(dataset.archives, files or contents(name)):
            server.files[f"/{archive.name}"] = content
            sha256 = hashlib.sha256(content).hexdigest()
            tiny.append(replace(archive, size=len(content), sha256=sha256))
        few = {path: min(n, 2) for path, n in dataset.files.items()}
        made = replace(dataset, archives=tuple(tiny), files=few)
        monkeypatch.setitem(PUBLIC_DATASETS, name, made)
        return made

    return serve


@pytest.fixture
def download(call, server, tmp_path):
    """Return a function that runs the script into ``tmp_path/data``."""
    root = tmp_path / "data"

    def run(*names: str, mirror: str | None = None, options=()):
        where = ("--root", root, "--mirror", mirror or server.url)
        return call("download_data", *names, *where, *options)

    run.root = root
    return run


def tree(folder: Path) -> list[str]:
    """Return all that lies in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---------------------------------------------------------------- what is laid out


def test_voc_opens_as_gluoncv_reads_it(offer, download):
    offer("voc2007")
    offer("voc2012")
    status, out, _ = download("voc2007", "voc2012")
    assert status == 0
    root = download.root / "VOCdevkit"
    assert out == f"voc2007: {root / 'VOC2007'}\nvoc2012: {root / 'VOC2012'}\n"
    trained, tested = voc_gluoncv(root, "trainval"), voc_gluoncv(root, "test")
    assert (len(trained), len(tested)) == (4, 2)
    image, label = tested[1]
    assert image.shape == (30, 40, 3)
    assert label[0, 4] == trained.classes.index("cat")
    assert trained.label(3)[0, 4] == trained.classes.index("person")


def test_bccd_opens_as_recipes_read_it(offer, download):
    offer("bccd")
    assert download("bccd")[0] == 0
    recipe = parse_recipe(read_set(ROOT / "model_zoo/bccd")["full_seed0"].recipe)
    root = download.root / Path(recipe.data.root).name
    for split in (recipe.data.train, recipe.data.test):
        data = VOCLayout(root, split, recipe.data.classes)
        assert data[0][1][0, 4] == data.classes.index("WBC")
    assert sorted(p.name for p in root.iterdir()) == [
        "Annotations",
        "ImageSets",
        "JPEGImages",
    ]


def test_imagenette_opens_as_folders(offer, download):
    offer("imagenette")
    assert download("imagenette")[0] == 0
    for split in ("train", "val"):
        data = ImageFolder(download.root / "imagenette" / split)
        assert data.classes == ("n01440764", "n02102040")
        assert [data[i][1] for i in range(len(data))] == [0, 1]


def test_coco_lies_as_gluoncv_looks_for_it(offer, download):
    offer("coco")
    assert download("coco")[0] == 0
    root = download.root / "coco"
    assert (root / "annotations/instances_val2017.json").is_file()
    assert (root / "train2017/000000000002.jpg").read_bytes() == picture()
    assert (root / "val2017/000000000007.jpg").read_bytes() == picture()


def test_coco_opens_as_gluoncv_reads_it(offer, download):
    offer("coco")
    assert download("coco")[0] == 0
    for split in ("train2017", "val2017"):
        data = coco_gluoncv(download.root / "coco", split)
        assert len(data) == 2
        assert data[0][1][0, 4] == data.classes.index("dog")


def test_nothing_else_is_left(offer, download):
    offer("imagenette")
    download("imagenette")
    assert [p.name for p in download.root.iterdir()] == ["imagenette"]


def test_archives_are_kept_if_asked_for(offer, download):
    made = offer("voc2007")
    download("voc2007", options=["--keep"])
    kept = sorted(p.name for p in (download.root / "downloads").iterdir())
    assert kept == sorted(archive.name for archive in made.archives)


def test_recipes_look_where_sets_go():
    sets = PUBLIC_DATASETS
    recipes = map(load_recipe, (ROOT / "model_zoo").glob("*/recipe.json"))
    roots = {r.data.kind: r.data.root for r in recipes if r.data.kind in GLUONCV}
    assert set(roots) == set(GLUONCV)
    for name in ("voc2007", "voc2012"):
        assert Path(sets[name].path).parent == Path(roots["gluoncv_voc"])
    assert sets["coco"].path == roots["coco"]


def test_archives_are_stated_as_download_and_unpack_want_them():
    stated = [one for made in PUBLIC_DATASETS.values() for one in made.archives]
    assert len({archive.name for archive in stated}) == len(stated)
    for archive in stated:
        assert archive.size > 1e6
        assert len(bytes.fromhex(archive.sha256)) == 32
        assert Path(archive.name).suffix in (".tar", ".tgz", ".zip")


def test_list_shows_sizes_terms_and_places(call):
    _, text, _ = call("download_data", "--list")
    for name, one in PUBLIC_DATASETS.items():
        (line,) = [x for x in text.splitlines() if x.startswith(f"  {name} ")]
        assert f"{one.size / 1e9:.2f} GB" in line
        assert f"DIR/{one.path} " in line
        assert line.endswith(one.terms)
    assert "github.com/FOD-UNOmaha/FOD-data" in text


# ---------------------------------------------------------------- the way there


def test_without_a_mirror_official_addresses_are_asked(
    offer, call, tmp_path, monkeypatch
):
    made, asked = offer("voc2007"), []
    served = dict(zip((a.url for a in made.archives), contents("voc2007")))

    def fetch_large(url, path, checksum, *, size):
        asked.append(url)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(served[url])
        assert len(served[url]) == size
        return path

    monkeypatch.setattr(fetching, "fetch_large", fetch_large)
    assert call("download_data", "voc2007", "--root", tmp_path)[0] == 0
    assert asked == list(served)


def test_mirror_may_be_a_folder(offer, download, server, tmp_path):
    made = offer("imagenette")
    name = made.archives[0].name
    (tmp_path / name).write_bytes(server.files[f"/{name}"])
    assert download("imagenette", mirror=f"{tmp_path.as_uri()}/")[0] == 0
    assert not server.requests
    assert (tmp_path / name).exists()


def test_later_call_goes_on_with_what_has_come(offer, download, server, monkeypatch):
    monkeypatch.setattr(fetching, "BACKOFF", 0)
    content = zipped({"BCCD_Dataset-1.0/a": bytes(300_000)}, compress_type=0)
    made = offer("bccd", [content])
    address = f"/{made.archives[0].name}"
    server.misbehave[address] = [servers.drop(150_000), *[servers.drop(0)] * 6]
    assert_refused(download("bccd"), "broke off")
    assert not (download.root / "bccd").exists()
    server.requests.clear()
    assert_refused(download("bccd"), "lack")  # it is not a real one
    ((_, begin),) = server.requests
    assert begin > 0


def test_wrong_checksum_leaves_nothing(offer, download, server):
    made = offer("imagenette")
    server.misbehave[f"/{made.archives[0].name}"] = [servers.wrong]
    assert_refused(download("imagenette"), made.archives[0].name, "checksum")
    assert tree(download.root) == []


def test_missing_archive_is_named(offer, download, server):
    made = offer("voc2007")
    last = made.archives[1].name
    del server.files[f"/{last}"]
    assert_refused(download("voc2007"), last, "404")
    assert tree(download.root) == ["downloads", f"downloads/{made.archives[0].name}"]


def test_whole_set_is_left_alone(offer, download, server):
    offer("voc2007")
    download("voc2007")
    before, asked = tree(download.root), list(server.requests)
    status, out, _ = download("voc2007", mirror="http://nowhere.invalid")
    assert status == 0
    assert "complete already" in out
    assert (tree(download.root), server.requests) == (before, asked)


def test_two_calls_at_once_download_once(offer, server, tmp_path):
    made = offer("imagenette")
    server.misbehave[f"/{made.archives[0].name}"] = [servers.slow(0.2)]
    new = []

    def one():
        new.append(download_dataset(made, tmp_path, mirror=server.url))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, False, True]
    assert len(server.requests) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["imagenette"]


# ---------------------------------------------------------------- in the middle of it


def test_interrupted_unpacking_leaves_nothing_half(
    offer, download, server, monkeypatch
):
    made = offer("voc2007")
    extract, calls = archives._extract, []

    def interrupted(path, inner, folder):
        extract(path, inner, folder)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(archives, "_extract", interrupted)
        assert download("voc2007")[0] == 130
    left = {"VOCdevkit", "downloads", *(f"downloads/{a.name}" for a in made.archives)}
    assert set(tree(download.root)) <= left
    asked = len(server.requests)
    assert download("voc2007")[0] == 0
    assert len(server.requests) == asked
    assert len(voc_gluoncv(download.root / "VOCdevkit", "test")) == 2


def test_what_a_killed_call_left_is_not_taken_over(offer, download):
    offer("voc2012")
    left = download.root / "VOCdevkit" / ".VOC2012.unpacking" / "JPEGImages"
    left.mkdir(parents=True)
    (left / "half.jpg").write_bytes(b"ha")
    assert download("voc2012")[0] == 0
    assert not left.parent.exists()
    images = download.root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    assert not (images / "half.jpg").exists()


def test_archive_without_all_of_the_set_is_refused(offer, download):
    offer("imagenette", [tarred({"imagenette2-160/train/a/1.JPEG": b"x"}, "w:gz")])
    assert_refused(download("imagenette"), "train (1 of 2 files), val (0 of 2 files)")
    assert not (download.root / "imagenette").exists()


# ---------------------------------------------------------------- what is not touched


def test_part_of_a_set_is_named_and_left_alone(offer, download, server):
    offer("imagenette")
    offer("bccd")
    mine = download.root / "bccd" / "JPEGImages" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    before = tree(download.root)
    lacking = "JPEGImages (1 of 2 files), Annotations (0 of 2 files)"
    assert_refused(download("imagenette", "bccd"), str(download.root / "bccd"), lacking)
    assert (tree(download.root), mine.read_bytes()) == (before, b"mine")
    assert not server.requests


def test_another_file_of_an_archives_name_is_left_alone(offer, download, server):
    made = offer("imagenette")
    mine = download.root / "downloads" / made.archives[0].name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert_refused(download("imagenette"), str(mine), made.archives[0].url)
    assert mine.read_bytes() == b"mine"
    assert not server.requests


def test_archive_that_is_there_is_used(offer, download, server):
    made = offer("imagenette")
    name = made.archives[0].name
    (download.root / "downloads").mkdir(parents=True)
    (download.root / "downloads" / name).write_bytes(server.files[f"/{name}"])
    assert download("imagenette")[0] == 0
    assert not server.requests


def test_root_that_is_a_file_is_refused(offer, download, server):
    offer("imagenette")
    download.root.write_text("mine")
    assert_refused(download("imagenette"), f"--root {download.root}")
    assert download.root.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("voc", ["set 'voc'", "allowed: voc2007, voc2012, coco, bccd, imagenette"]),
        ("fod", ["set 'fod'", "github.com/FOD-UNOmaha/FOD-data", "no checksum"]),
    ],
)
def test_unknown_set_is_refused_before_all_others(offer, download, server, name, words):
    offer("imagenette")
    assert_refused(download("imagenette", name), *words)
    assert not download.root.exists()
    assert not server.requests


def test_root_is_needed(call):
    assert_refused(call("download_data", "coco"), "--root")


def test_full_disk_is_seen_before_the_download(offer, download, server, monkeypatch):
    made = offer("imagenette")
    monkeypatch.setattr("shutil.disk_usage", usage(free=2 * made.size - 1))
    assert_refused(download("imagenette"), "not enough room", str(download.root))
    assert not server.requests
    assert tree(download.root) == []
    monkeypatch.setattr("shutil.disk_usage", usage(free=2 * made.size))
    assert download("imagenette")[0] == 0


def usage(free: int):
    kind = namedtuple("usage", "total used free")
    return lambda place: kind(free, 0, free)


def test_unsafe_archive_ends_the_script_with_nothing_written(offer, download):
    files = {"imagenette2-160/train/a/1.JPEG": b"x", "../../escaped": b"bad"}
    made = offer("imagenette", [tarred(files, "w:gz")])
    name = made.archives[0].name
    assert_refused(download("imagenette"), name, "'../../escaped'")
    assert tree(download.root) == ["downloads", f"downloads/{name}"]
    assert sorted(p.name for p in download.root.parent.iterdir()) == ["data"]
