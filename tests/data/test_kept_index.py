"""Indices of large sets: the same data set, found again only if nothing has changed."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from gluon_compress.data import Records, VOCLayout, coco_gluoncv, kept_index
from gluon_compress.data import coco as coco_module
from gluon_compress.data import voc as voc_module
from gluon_compress.data.kept_index import INDICES, FilesState, KeptIndex, settled
from images import NAMES, write_records

OLD = 1_600_000_000  # seconds: long before any test
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin>"
    "<ymin>4</ymin><xmax>20</xmax><ymax>90</ymax></bndbox></object>"
)


@pytest.fixture(autouse=True)
def indices(tmp_path, monkeypatch) -> Path:
    """Keep the index of any set, in a folder of the test."""
    folder = tmp_path / "indices"
    monkeypatch.setenv(INDICES, str(folder))
    monkeypatch.setattr(kept_index, "LEAST_ENTRIES", 1)
    return folder


def aged(folder: Path) -> Path:
    for path in folder.rglob("*"):
        os.utime(path, (OLD, OLD))
    return folder


def write_voc(root: Path, images: int = 6) -> Path:
    """Write a set with a repair, an ignored class, and files that are unusable."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for i in range(images):
        pixels = np.full((40, 30 + i, 3), 40 * i % 256, np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"ä{i}.png"), pixels)
        rows = OBJECT.format("car", i % 2, 2) + OBJECT.format("dog", 0, "x")
        rows += OBJECT.format("tree", 0, 5) if i == 3 else ""
        size = f"<size><width>{30 + i}</width><height>40</height></size>"
        text = f"<annotation>{size}{rows}</annotation>"
        (root / "Annotations" / f"ä{i}.xml").write_text(text, encoding="utf-8")
    (root / "JPEGImages" / "ä1.png").write_bytes(b"no image")
    names = "".join(f"ä{i}\n" for i in range(images))
    (root / "ImageSets" / "Main" / "train.txt").write_text(names, encoding="utf-8")
    return aged(root)


def open_voc(root: Path) -> VOCLayout:
    return VOCLayout(root, "train", ["car"], others="ignore")


def write_coco(root: Path) -> Path:
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    entries, rows = [], []
    for i in range(4):
        name = f"{i}.png"
        if i != 2:
            pixels = np.full((20, 30, 3), 60 * i, np.uint8)
            cv2.imwrite(str(root / "train" / name), pixels)
        entries.append({"id": i, "file_name": name, "width": 30, "height": 20})
        box = {"bbox": [2, 3, 50 if i == 3 else 9, 8], "segmentation": [[1, 2, 3]]}
        rows.append({"id": i, "image_id": i, "category_id": 1, **box})
    names = [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]
    content = {"images": entries, "annotations": rows, "categories": names}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return aged(root)


def open_coco(root: Path) -> coco_module.COCOFormat:
    return coco_gluoncv(root, "train")


def write_record(root: Path) -> Path:
    write_records(root, train=2)
    with open(root / "train.idx", "a", encoding="ascii") as index:
        index.write("9\t4\n")  # no record starts there
    return aged(root)


def open_record(root: Path) -> Records:
    return Records(root / "train.rec", NAMES)


LAYOUTS = {
    "voc": (write_voc, open_voc),
    "coco": (write_coco, open_coco),
    "record": (write_record, open_record),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    """Return the folder of a set, and what opens it."""
    write, open_set = LAYOUTS[request.param]
    return write(tmp_path / "data"), open_set


def told(dataset) -> dict:
    """Return all that a data set tells of itself."""
    count = range(len(dataset))
    content = {
        "items": [
            (image.tobytes(), str(np.array(label).tolist()))
            for image, label in (dataset[i] for i in count)
        ],
        "classes": dataset.classes,
        "problems": dataset.problems,
        "skipped": dataset.skipped,
    }
    if hasattr(dataset, "label"):
        content["paths"] = [dataset.path(i) for i in count]
        content["labels"] = [dataset.label(i).tobytes() for i in count]
        content["repairs"] = list(dataset.repairs.items())
        content["doubts"] = dataset.doubts
        content["counts"] = dataset.class_counts
    return content


def refuse_to_read(monkeypatch) -> None:
    """Let every reader of annotations, headers or labels fail."""

    def fail(*args, **options):
        raise AssertionError("it is read again")

    for name in ("read_annotation", "read_header"):
        monkeypatch.setattr(voc_module, name, fail)
    for name in ("_read", "read_header"):
        monkeypatch.setattr(coco_module, name, fail)
    monkeypatch.setattr(Records, "_fill", fail)


def unkept(open_set, root: Path, monkeypatch) -> dict:
    with monkeypatch.context() as patch:
        patch.setenv(INDICES, "")
        return told(open_set(root))


# ------------------------------------------------------------------ the same again


def test_a_set_is_the_same_when_nothing_is_read_again(layout, monkeypatch):
    root, open_set = layout
    expected = unkept(open_set, root, monkeypatch)
    assert expected["skipped"] == 1
    assert told(open_set(root)) == expected
    refuse_to_read(monkeypatch)
    assert told(open_set(root)) == expected


def test_class_names_of_annotations_are_kept_too(tmp_path, monkeypatch):
    root = write_voc(tmp_path / "data")
    names = VOCLayout(root, "train").classes
    assert names == ("car", "tree")
    monkeypatch.setattr("gluon_compress.data.voc_xml.read_annotation", None)
    assert VOCLayout(root, "train").classes == names


def test_data_folders_stay_as_they_are(layout):
    root, open_set = layout
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    open_set(root)
    open_set(root)
    assert {p: p.stat().st_mtime_ns for p in [root, *root.rglob("*")]} == before


def test_other_settings_have_an_index_of_their_own(tmp_path):
    root = write_voc(tmp_path / "data")
    for _ in range(2):
        assert len(open_voc(root)) == 5
        assert len(VOCLayout(root, "train", difficult=False).label(0)) == 1
        assert VOCLayout(root, "train", ["tree"], others="ignore").path(0).stem == "ä3"


def test_the_index_of_a_small_set_is_not_kept(tmp_path, indices, monkeypatch):
    monkeypatch.setattr(kept_index, "LEAST_ENTRIES", 100)
    open_voc(write_voc(tmp_path / "data"))
    assert not indices.exists()


def test_nothing_is_kept_without_a_folder(layout, tmp_path, monkeypatch):
    monkeypatch.setenv(INDICES, "")
    monkeypatch.chdir(tmp_path)
    root, open_set = layout
    open_set(root)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_written_is_no_error(layout, indices):
    indices.write_text("a file in its place")
    root, open_set = layout
    assert told(open_set(root)) == told(open_set(root))


# ----------------------------------------------------------------------- changes


def rewrite(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), "utf-8")


VOC_CHANGES = {
    "annotation of equal size": lambda root: rewrite(
        root / "Annotations" / "ä0.xml", "<xmin>2<", "<xmin>7<"
    ),
    "image": lambda root: cv2.imwrite(
        str(root / "JPEGImages" / "ä0.png"), np.zeros((40, 33, 3), np.uint8)
    ),
    "image that is there now": lambda root: (
        root / "JPEGImages" / "ä1.png"
    ).write_bytes((root / "JPEGImages" / "ä2.png").read_bytes()),
    "image that has gone": lambda root: (root / "JPEGImages" / "ä2.png").unlink(),
    "second image of a name": lambda root: (root / "JPEGImages" / "ä2.jpg").write_bytes(
        b""
    ),
    "list": lambda root: rewrite(root / "ImageSets" / "Main" / "train.txt", "ä2\n", ""),
}


@pytest.mark.parametrize("change", VOC_CHANGES)
def test_a_changed_voc_folder_is_read_again(change, tmp_path, monkeypatch):
    root = write_voc(tmp_path / "data")
    before = told(open_voc(root))
    VOC_CHANGES[change](root)
    expected = unkept(open_voc, root, monkeypatch)
    assert expected != before
    assert told(open_voc(root)) == expected


def coco_move(root: Path) -> None:
    """Put an image where it is looked for first only if it is nowhere else."""
    (root / "images").mkdir()
    (root / "train" / "1.png").rename(root / "images" / "1.png")


COCO_CHANGES = {
    "annotations": lambda root: rewrite(
        root / "annotations" / "instances_train.json", "[2, 3, 9, 8]", "[2, 3, 7, 8]"
    ),
    "image that has gone": lambda root: (root / "train" / "0.png").unlink(),
    "image that is there now": lambda root: (root / "train" / "2.png").write_bytes(
        (root / "train" / "1.png").read_bytes()
    ),
    "image in another folder": coco_move,
}


@pytest.mark.parametrize("change", COCO_CHANGES)
def test_a_changed_coco_folder_is_read_again(change, tmp_path, monkeypatch):
    root = write_coco(tmp_path / "data")
    before = told(open_coco(root))
    COCO_CHANGES[change](root)
    expected = unkept(open_coco, root, monkeypatch)
    assert expected != before
    assert told(open_coco(root)) == expected


def test_changed_records_are_read_again(tmp_path, monkeypatch):
    root = write_record(tmp_path / "data")
    open_record(root)
    lines = (root / "train.idx").read_text().splitlines()
    (root / "train.idx").write_text("\n".join(lines[2:]) + "\n")
    expected = unkept(open_record, root, monkeypatch)
    assert len(expected["items"]) == 4
    assert told(open_record(root)) == expected


def test_other_code_reads_again(layout, monkeypatch):
    root, open_set = layout
    open_set(root)
    monkeypatch.setattr(kept_index, "_code", lambda: "of another version")
    refuse_to_read(monkeypatch)
    with pytest.raises(AssertionError, match="read again"):
        open_set(root)


def test_files_that_change_at_this_moment_are_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"1")
    now = time.time()
    os.utime(file, (now, now))
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        file.write_bytes(b"22")  # meanwhile

    monkeypatch.setattr(time, "sleep", sleep)

    def state() -> FilesState:
        state = FilesState()
        state.add([str(file)])
        return state

    first = state().hexdigest()
    assert settled(state).hexdigest() != first
    assert 0 < pauses[0] <= kept_index.SETTLED
    os.utime(file, (OLD, OLD))
    settled(state)
    assert len(pauses) == 1


# --------------------------------------------------------- damaged and foreign files


def damaged(content: bytes) -> dict[str, bytes]:
    third = len(content) // 3
    return {
        "empty": b"",
        "cut": content[:third],
        "other bytes": content[:third] + bytes(50) + content[third + 50 :],
        "text": b"{}" * 100,
        "longer": content + b"more",
    }


def test_a_damaged_index_is_made_again(layout, indices, monkeypatch):
    root, open_set = layout
    expected = told(open_set(root))
    (file,) = indices.iterdir()
    sound = file.read_bytes()
    for content in damaged(sound).values():
        file.write_bytes(content)
        assert told(open_set(root)) == expected
        assert told(open_set(root)) == expected
    refuse_to_read(monkeypatch)
    open_set(root)


def test_any_changed_byte_is_harmless(tmp_path, indices):
    root = write_record(tmp_path / "data")
    expected = told(open_record(root))
    (file,) = indices.iterdir()
    sound = file.read_bytes()
    for place in range(0, len(sound), max(1, len(sound) // 60)):
        content = bytearray(sound)
        content[place] ^= 0x55
        file.write_bytes(content)
        assert told(open_record(root)) == expected


def test_an_index_of_another_set_is_not_taken(tmp_path, indices):
    first, second = (write_voc(tmp_path / name, 6 + i) for i, name in enumerate("ab"))
    expected = told(open_voc(second))
    (file,) = indices.iterdir()
    open_voc(first)
    (other,) = set(indices.iterdir()) - {file}
    file.write_bytes(other.read_bytes())
    assert told(open_voc(second)) == expected


CHANGED_ARRAYS = {
    "class that is none": ("rows", lambda rows: rows + np.float32(7)),
    "not a number": ("rows", lambda rows: rows * np.float32(np.nan)),
    "too few rows": ("rows", lambda rows: rows[1:]),
    "columns": ("rows", lambda rows: rows[:, :5]),
    "ends": ("row_ends", lambda ends: ends[::-1]),
    "negative end": ("row_ends", lambda ends: np.array([-5, *ends[1:]])),
    "type": ("row_ends", lambda ends: ends.astype(np.float64)),
    "no sizes": ("sizes", lambda sizes: sizes[:0]),
    "no text": ("files", lambda content: content | 0x80),
    "missing": ("upright", None),
}


@pytest.mark.parametrize("change", CHANGED_ARRAYS)
def test_arrays_that_do_not_fit_are_not_taken(change, tmp_path, indices, monkeypatch):
    root = write_voc(tmp_path / "data")
    expected = told(open_voc(root))
    (file,) = indices.iterdir()
    arrays = dict(np.load(file))
    name, changed = CHANGED_ARRAYS[change]
    if changed is None:
        del arrays[name]
    else:
        arrays[name] = changed(arrays[name])
    np.savez(file, **arrays)
    assert told(open_voc(root)) == expected


def test_pickled_objects_are_not_opened(tmp_path, indices):
    root = write_voc(tmp_path / "data")
    expected = told(open_voc(root))
    (file,) = indices.iterdir()
    np.savez(file, note=np.array([open_voc], object))
    assert told(open_voc(root)) == expected


def test_several_may_open_a_set_at_once(layout, monkeypatch):
    root, open_set = layout
    expected = unkept(open_set, root, monkeypatch)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(told(open_set(root))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4
    assert told(open_set(root)) == expected


def test_old_indices_make_room_and_other_files_stay(tmp_path, indices, monkeypatch):
    state = FilesState()
    state.entries = 10
    files = []
    for number in range(4):
        index = KeptIndex(number=number)
        index.keep(state, "note", {"array": np.zeros(100)})
        os.utime(index.path, (OLD + number, OLD + number))
        files.append(index.path)
        size = index.path.stat().st_size
        monkeypatch.setattr(kept_index, "MOST_BYTES", 5 * size // 2)
        (indices / "mine.npz").write_bytes(bytes(10 * size))
    left = {path.name for path in indices.iterdir()}
    assert left == {"mine.npz", files[2].name, files[3].name}


# -------------------------------------------------------- what it costs, in calls


def count_calls(monkeypatch, names: tuple[str, ...]) -> list:
    """Return a list to which each call of functions of ``os`` adds its arguments."""
    calls: list = []
    for name in names:
        real = getattr(os, name)

        def counted(*args, real=real, **options):
            calls.append(args)
            return real(*args, **options)

        monkeypatch.setattr(os, name, counted)
    return calls


def test_an_opening_costs_calls_in_proportion_to_files(tmp_path, monkeypatch):
    counts = {}
    for images in (20, 40):
        root = write_voc(tmp_path / str(images), images)
        counts[images] = []
        for _ in range(2):
            with monkeypatch.context() as patch:
                calls = count_calls(patch, ("stat", "open", "scandir"))
                open_voc(root)
            counts[images].append(len(calls))
    (first, again), (first_of_more, again_of_more) = counts[20], counts[40]
    assert first_of_more <= 2 * first
    assert again == again_of_more < 40  # a folder's entries are not opened one by one


def test_records_are_looked_at_once_each(tmp_path, monkeypatch):
    root = write_records(tmp_path / "data", train=1)
    record = (root / "train.rec").read_bytes()
    rows = 3000
    (root / "train.rec").write_bytes(record * (rows // 3))
    size = len(record)
    rows_of_one = (root / "train.idx").read_text().splitlines()
    first = [int(line.split("\t")[1]) for line in rows_of_one]
    lines = (f"{i}\t{i // 3 * size + first[i % 3]}\n" for i in range(rows))
    (root / "train.idx").write_text("".join(lines))
    aged(root)
    reads = count_calls(monkeypatch, ("pread",))
    assert len(open_record(root)) == rows
    assert len(reads) == rows
    assert open_record(root).labels == [0, 1, 2] * (rows // 3)
    assert len(reads) == rows
