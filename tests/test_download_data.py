from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from gluoncv.data import COCODetection

import servers
from gluon_compress import unpack as unpacking
from gluon_compress.data import ImageFolder, VOCLayout, coco_gluoncv, voc_gluoncv
from gluon_compress.recipe import load_recipe
from gluon_compress.storage import download as fetching
from refusals import assert_refused

ROOT = Path(__file__).resolve().parents[1]
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


def tarred(files, how: str = "w", **changes) -> bytes:
    """Return a tar file of (name, content); ``changes`` go to every header."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=how) as archive:
        for name, content in dict(files).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in changes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zipped(files, **changes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in dict(files).items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return made.getvalue()


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
def offer(script, server, monkeypatch):
    """Return a function that serves tiny archives and lets a set be of them."""

    def serve(name: str, files: list[bytes] | None = None):
        sets = script("downloads.sets").SETS
        archives = []
        for archive, content in zip(sets[name].archives, files or contents(name)):
            server.files[f"/{archive.name}"] = content
            checksum = "sha256:" + hashlib.sha256(content).hexdigest()
            archives.append(replace(archive, size=len(content), checksum=checksum))
        few = {path: min(n, 2) for path, n in sets[name].holds.items()}
        made = replace(sets[name], archives=tuple(archives), holds=few)
        monkeypatch.setitem(sets, name, made)
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
    recipe = load_recipe(ROOT / "model_zoo/bccd/full_seed0/recipe.json")
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
    pytest.importorskip("pycocotools")
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


def test_recipes_look_where_sets_go(script):
    sets = script("downloads.sets").SETS
    recipes = map(load_recipe, (ROOT / "model_zoo").glob("*/recipe.json"))
    roots = {r.data.kind: r.data.root for r in recipes if r.data.kind in GLUONCV}
    assert set(roots) == set(GLUONCV)
    for name in ("voc2007", "voc2012"):
        assert Path(sets[name].place).parent == Path(roots["gluoncv_voc"])
    assert sets["coco"].place == roots["coco"]


def test_archives_are_stated_as_fetch_and_unpack_want_them(script):
    sets = script("downloads.sets").SETS.values()
    archives = [archive for one in sets for archive in one.archives]
    assert len({archive.name for archive in archives}) == len(archives)
    for archive in archives:
        assert archive.size > 1e6
        fetching._algorithm(archive.checksum)
        assert Path(archive.name).suffix in (".tar", ".tgz", ".zip")


def test_help_lists_sets_sizes_terms_and_places(call, capsys, script):
    with pytest.raises(SystemExit):
        script("download_data").arguments().parse_args(["--help"])
    text = capsys.readouterr().out
    for name, one in script("downloads.sets").SETS.items():
        (line,) = [x for x in text.splitlines() if x.startswith(f"  {name} ")]
        assert f"{one.size / 1e9:.2f} GB" in line
        assert f"DIR/{one.place} " in line
        assert line.endswith(one.terms)
    assert "github.com/FOD-UNOmaha/FOD-data" in text


# ---------------------------------------------------------------- the way there


def test_without_a_mirror_official_addresses_are_asked(
    offer, call, tmp_path, monkeypatch
):
    made, asked = offer("voc2007"), []
    served = dict(zip((a.url for a in made.archives), contents("voc2007")))

    def fetch(url, path, checksum, *, size):
        asked.append(url)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(served[url])
        assert len(served[url]) == size
        return path

    monkeypatch.setattr(fetching, "fetch", fetch)
    assert call("download_data", "voc2007", "--root", tmp_path)[0] == 0
    assert asked == list(served)


def test_mirror_may_be_a_folder(offer, download, server, tmp_path):
    made = offer("imagenette")
    name = made.archives[0].name
    (tmp_path / name).write_bytes(server.files[f"/{name}"])
    assert download("imagenette", mirror=f"{tmp_path.as_uri()}/")[0] == 0
    assert not server.requests
    assert (tmp_path / name).exists()


def test_dropped_connection_is_resumed(offer, download, server, monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    made = offer("bccd")
    address = f"/{made.archives[0].name}"
    server.misbehave[address] = [servers.drop(1000)]
    assert download("bccd")[0] == 0
    assert server.requests == [(address, ""), (address, "bytes=1000-")]


def test_later_call_goes_on_with_what_has_come(offer, download, server, monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)
    made = offer("bccd")
    address = f"/{made.archives[0].name}"
    server.misbehave[address] = [servers.drop(1000), *[servers.drop(0)] * 5]
    assert_refused(download("bccd"), "1000 of")
    assert not (download.root / "bccd").exists()
    assert download("bccd")[0] == 0
    assert server.requests[-1] == (address, "bytes=1000-")


def test_wrong_checksum_leaves_nothing(offer, download, server):
    made = offer("imagenette")
    server.misbehave[f"/{made.archives[0].name}"] = [servers.wrong]
    assert_refused(download("imagenette"), made.archives[0].name, "another sha256")
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


def test_two_calls_at_once_download_once(offer, script, server, tmp_path):
    made = offer("imagenette")
    server.misbehave[f"/{made.archives[0].name}"] = [servers.slow(0.2)]
    obtain, new = script("downloads.obtain").obtain, []

    def one():
        new.append(obtain(made, tmp_path, server.url, keep=False))

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
    offer, download, script, server, monkeypatch
):
    made = offer("voc2007")
    module = unpacking
    write, written = module.write, []

    def interrupted(member, path, bar):
        write(member, path, bar)
        written.append(path)
        if len(written) == 8:  # in the second archive
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write", interrupted)
    assert download("voc2007")[0] == 130
    assert len(written) == 8
    left = {"VOCdevkit", "downloads", *(f"downloads/{a.name}" for a in made.archives)}
    assert set(tree(download.root)) == left
    asked = len(server.requests)
    monkeypatch.setattr(module, "write", write)
    assert download("voc2007")[0] == 0
    assert len(server.requests) == asked
    assert len(voc_gluoncv(download.root / "VOCdevkit", "test")) == 2


def test_full_disk_is_named_and_the_next_call_goes_on(
    offer, download, server, full_disk
):
    made = offer("bccd", [zipped({"a": picture() + bytes(50_000)}, compress_type=0)])
    name = made.archives[0].name
    with full_disk(30_000):
        ended = download("bccd")
    (part,) = (download.root / "downloads").glob(f"{name}.*.part")
    assert_refused(ended, f"error: {part}: File too large")
    assert part.stat().st_size == 30_000
    assert_refused(download("bccd"), "the archives lack")
    assert server.requests == [(f"/{name}", ""), (f"/{name}", "bytes=30000-")]


def test_full_disk_while_unpacking_is_named(unpack, tmp_path, full_disk):
    content = tarred({"a/b": bytes(50_000)}, "w:gz")
    with full_disk(30_000), pytest.raises(OSError, match="too large") as error:
        unpack("tgz", content)
    assert error.value.filename == str(tmp_path / "out" / "a" / "b")
    assert not (tmp_path / "out").exists()


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
    assert_refused(download("imagenette"), f"--root {download.root}: is no folder")
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
    # Enough to begin with. These few pixels pack better than real ones, though.
    assert_refused(download("imagenette"), "not enough room")
    assert tree(download.root) == ["downloads", f"downloads/{made.archives[0].name}"]


def usage(free: int):
    kind = namedtuple("usage", "total used free")
    return lambda place: kind(free, 0, free)


# ---------------------------------------------------------------- unsafe archives


@pytest.fixture
def unpack(script, tmp_path):
    """Return a function that unpacks what is given to ``tmp_path/out``."""

    def run(kind: str, *archives: bytes, inner: str = ""):
        sources = []
        for number, content in enumerate(archives):
            path = tmp_path / f"{number}.{kind}"
            path.write_bytes(content)
            sources.append((path, inner))
        unpacking.unpack(sources, tmp_path / "out")
        return tmp_path / "out"

    return run


@pytest.fixture
def refuse(unpack, tmp_path):
    """Return a function that checks that an archive is refused and nothing written."""

    def run(kind: str, *archives: bytes, match: str, **options):
        with pytest.raises(ValueError, match=match) as error:
            unpack(kind, *archives, **options)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)
        assert all(path.stem.isdigit() for path in tmp_path.iterdir())

    return run


@pytest.mark.parametrize("inner", ["", "good"])
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "//etc/passwd",
        "../out2",
        "good/../../x",
        "good/..",
        "C:/x",
        "./c:x",
        "..\\x",
        "good\\x",
        "\\x",
    ],
)
@pytest.mark.parametrize(("kind", "pack"), [("tar", tarred), ("zip", zipped)])
def test_names_that_lead_out_are_refused(refuse, kind, pack, name, inner):
    content = pack({"good/file": b"good", name: b"bad"})
    refuse(kind, content, match="leads out of the folder", inner=inner)


def test_folders_that_lead_out_are_refused(refuse):
    refuse("tar", tarred({"../x": b""}, type=tarfile.DIRTYPE), match="leads out")
    refuse("zip", zipped({"../x/": b""}), match="leads out")


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "or a pipe"),
        (b"Z", "is a device"),
    ],
)
def test_members_of_other_kinds_are_refused(refuse, kind, what):
    content = tarred({"good": b"", "bad": b""}, type=kind, linkname="target")
    refuse("tar", content, match=f"'good' {what}|'good' .* {what}")


@pytest.mark.parametrize(
    ("mode", "what"), [(0o120777, "is a link"), (0o20644, "device"), (0o10644, "pipe")]
)
def test_members_of_other_kinds_are_refused_in_a_zip(refuse, mode, what):
    content = zipped({"good": b"target"}, external_attr=mode << 16, create_system=3)
    refuse("zip", content, match=what)


def test_file_twice_is_refused(refuse):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a/b", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/b", b"2")
    refuse("zip", made.getvalue(), match="'a/b' is there twice")
    refuse(
        "tar", tarred({"a/b": b"1", "./a//b": b"2"}), match="'./a//b' is there twice"
    )


def test_file_in_two_archives_is_refused(refuse):
    content = tarred({"a": b"1"})
    refuse("tar", content, content, match="1.tar: 'a' is there twice")


def test_file_that_is_a_folder_too_is_refused(refuse):
    refuse("tar", tarred({"a/b": b"1", "a": b"2"}), match="'a' is there twice")
    refuse("tar", tarred({"a": b"1", "a/b": b"2"}), match="'a' is there twice")


def test_more_than_the_disk_holds_is_refused(refuse, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", usage(free=10**6))
    bomb = {"a": bytes(600_000), "b": bytes(600_000)}
    for kind, content in (("zip", zipped(bomb)), ("tgz", tarred(bomb, "w:gz"))):
        assert len(content) < 10_000
        refuse(kind, content, match="not enough room")


def test_member_that_is_longer_than_stated_is_stopped(script, tmp_path):
    for content in (b"x" * (3 << 20), b""):
        member = unpacking.Member(
            "a.zip: 'b'", ("b",), 5, lambda c=content: io.BytesIO(c)
        )
        with pytest.raises(ValueError, match="a.zip: 'b' is not of the 5 bytes"):
            unpacking.write(member, tmp_path / f"{len(content)}", Bar())
        assert (tmp_path / f"{len(content)}").stat().st_size == 0


class Bar:
    def update(self, count: int) -> None:
        pass


def test_zip_that_understates_a_size_is_refused(refuse):
    content = bytearray(zipped({"bomb": bytes(5000)}))
    at = content.index(b"PK\1\2") + 24  # the size in the list at the end
    assert struct.unpack_from("<I", content, at) == (5000,)
    struct.pack_into("<I", content, at, 50)
    refuse("zip", bytes(content), match=r"0\.zip: 'bomb': cannot be unpacked.*CRC")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("zip", b"no archive"),
        ("tar", b"no archive" * 60),
        ("tgz", b"no archive"),
        ("tgz", tarred({"a": bytes(3000)}, "w:gz")[:60]),
        ("zip", zipped({"a": b"secret"}, compress_type=zipfile.ZIP_STORED)[:-30]),
    ],
    # gzip notes the time: contents are no names that two processes agree on.
    ids=["zip", "tar", "tgz", "short tgz", "short zip"],
)
def test_broken_archive_is_named(refuse, kind, content):
    refuse(kind, content, match=rf"0\.{kind}: cannot be unpacked")


THREE = {"a": b"1" * 700, "b/c": b"2" * 700, "d": b"3" * 700}  # 3 blocks of 512 each


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


@pytest.mark.parametrize(
    "change",
    {
        "cut before a header": lambda tar: tar[: 2 * 1536],
        "cut in a header": lambda tar: tar[: 2 * 1536 + 200],
        "cut in a member": lambda tar: tar[: 2 * 1536 + 1000],
        "cut after the last member": lambda tar: tar[: 3 * 1536],
        "cut in the end": lambda tar: tar[: 3 * 1536 + 1023],
        "a header of zeros": lambda tar: patched(tar, 1536, bytes(512)),
        "a header of anything": lambda tar: patched(tar, 1536, b"any" * 150),
        "a header with a wrong sum": lambda tar: patched(tar, 1536, b"x"),
        "two in one": lambda tar: tar + tarred({"e": b"4"}),
    }.items(),
    ids=lambda change: change[0],
)
@pytest.mark.parametrize(("kind", "pack"), [("tar", bytes), ("tgz", gzip.compress)])
def test_tar_that_does_not_end_as_it_should_is_refused(refuse, kind, pack, change):
    content = pack(change[1](tarred(THREE)))
    refuse(kind, content, match=rf"0\.{kind}: cannot be unpacked: .")


def test_tar_needs_no_more_than_its_end(unpack):
    content = tarred(THREE)[: 3 * 1536 + 1024]
    assert tree(unpack("tar", content)) == ["a", "b", "b/c", "d"]


@pytest.mark.parametrize("at", [-8, -4], ids=["sum", "length"])
def test_tgz_with_a_wrong_sum_is_refused(refuse, at):
    content = bytearray(tarred(THREE, "w:gz"))
    content[at] ^= 1
    refuse("tgz", bytes(content), match=r"0\.tgz: cannot be unpacked: ")
    refuse("tgz", bytes(content[:at]), match=r"0\.tgz: cannot be unpacked: ")


def test_tgz_with_a_wrong_sum_ends_the_script_with_nothing_written(offer, download):
    (content,) = contents("imagenette")
    made = offer("imagenette", [patched(content, len(content) - 8, b"none")])
    name = made.archives[0].name
    assert_refused(download("imagenette"), f"{name}: cannot be unpacked: CRC")
    assert tree(download.root) == ["downloads", f"downloads/{name}"]


@pytest.mark.parametrize("pack", ["STORED", "DEFLATED", "BZIP2", "LZMA"])
def test_zip_with_a_broken_member_is_not_unpacked(refuse, pack):
    noise = np.random.RandomState(0).bytes(5000)
    how = getattr(zipfile, f"ZIP_{pack}")
    content = zipped({"a/good": noise, "b": noise}, compress_type=how)
    at = content.rindex(b"PK\3\4") + 2000
    broken = patched(content, at, bytes(64))
    refuse("zip", broken, match=r"0\.zip: 'b': cannot be unpacked: .")


@pytest.mark.parametrize("find", [bytes.index, bytes.rindex], ids=["file", "list"])
def test_zip_with_a_name_that_is_no_text_is_refused(refuse, find):
    content = zipped({"é": b"1"})
    broken = patched(content, find(content, "é".encode()), b"\xff\xff")
    refuse("zip", broken, match=r"0\.zip: .*cannot be unpacked: 'utf-8' codec")


@pytest.mark.parametrize(
    "fields",
    [
        {"GNU.sparse.size": "many", "GNU.sparse.major": "0"},
        {"GNU.sparse.map": "a,b"},
        {"size": "-1536"},
        {"size": "-1"},
        {"size": "9" * 30},
        {"size": "many"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_tar_with_a_bad_field_is_refused(refuse, fields):
    content = tarred(THREE, pax_headers=fields)
    refuse("tar", content, match=r"0\.tar: cannot be unpacked: .")


@pytest.mark.parametrize("size", [2**80, 2**63, 2**62, 2**40, -512, -1536, -(2**80)])
@pytest.mark.parametrize("kind", ["REGTYPE", "XHDTYPE", "GNUTYPE_LONGNAME"])
def test_tar_with_an_absurd_size_is_refused(refuse, kind, size):
    info = tarfile.TarInfo("bad")
    info.type, info.size = getattr(tarfile, kind), size
    good = tarred({"good": b"1" * 700})[:1536]
    content = good + info.tobuf(tarfile.GNU_FORMAT) + tarred(THREE)
    refuse("tar", content, match=r"0\.tar: cannot be unpacked: .")
    refuse("tgz", gzip.compress(content), match=r"0\.tgz: cannot be unpacked: .")


def test_archive_that_is_not_there_is_named(tmp_path):
    for kind in ("tar", "tgz", "zip"):
        with pytest.raises(FileNotFoundError, match=f"none.{kind}"):
            unpacking.unpack([(tmp_path / f"none.{kind}", "")], tmp_path / "out")


def test_folder_that_is_there_is_left_alone(unpack, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="out"):
        unpack("tar", tarred(THREE))
    assert tree(tmp_path / "out") == ["mine"]


def test_encrypted_member_is_named(refuse):
    content = bytearray(zipped({"a": b"secret"}))
    content[content.index(b"PK\1\2") + 8] |= 1
    content[content.index(b"PK\3\4") + 6] |= 1
    refuse("zip", bytes(content), match=r"'a': cannot be unpacked.*encrypted")


def test_permissions_and_owner_are_plain(unpack):
    content = tarred({"a/b": b"1"}, mode=0o6777, uid=4242, gid=4242)
    file = unpack("tar", content) / "a" / "b"
    assert file.stat().st_mode & 0o7777 & ~0o644 == 0
    assert file.parent.stat().st_mode & 0o7777 & ~0o755 == 0
    assert file.stat().st_uid != 4242


def test_only_the_inner_folder_is_unpacked(unpack):
    files = {"./top/in/a/b": b"1", "top/c": b"2", "top/inside": b"3", "top/in2/d": b"4"}
    assert tree(unpack("zip", zipped(files), inner="top/in")) == ["a", "a/b"]


def test_unsafe_archive_ends_the_script_with_nothing_written(offer, download):
    files = {"imagenette2-160/train/a/1.JPEG": b"x", "../../escaped": b"bad"}
    made = offer("imagenette", [tarred(files, "w:gz")])
    name = made.archives[0].name
    assert_refused(download("imagenette"), f"{name}: '../../escaped'")
    assert tree(download.root) == ["downloads", f"downloads/{name}"]
    assert sorted(p.name for p in download.root.parent.iterdir()) == ["data"]
