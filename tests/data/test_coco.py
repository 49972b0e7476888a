"""Files in COCO's format, of COCO itself and of other tools."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from gluoncv.data import COCODetection
from PIL import Image

from gluon_compress.data import DetectionData, coco_gluoncv, count_images
from gluon_compress.evaluate import coco_map

CATEGORIES = [{"id": 7, "name": "screw"}, {"id": 3, "name": "nut"}]
ROTATED = 6  # EXIF: stored on its side


def picture(file: Path, size=(100, 60), orientation: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("RGB", size, (90, 90, 90)).save(file, exif=exif)


def entry(key=1, name="1.jpg", size=(100, 60), **more) -> dict:
    return {"id": key, "file_name": name, "width": size[0], "height": size[1], **more}


def thing(image=1, category=7, bbox=(10, 20, 30, 15), **more) -> dict:
    return {"image_id": image, "category_id": category, "bbox": list(bbox), **more}


@pytest.fixture
def coco(tmp_path):
    """Return a function that writes a file of annotations and opens it."""

    def opened(images, annotations, categories=CATEGORIES, *, classes=None, **options):
        content = {
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        path = tmp_path / "annotations" / "instances_val2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return coco_gluoncv(tmp_path, "val2017", classes, **options)

    picture(tmp_path / "val2017" / "1.jpg")
    return opened


def test_a_box_reaches_from_its_first_to_its_last_pixel(coco):
    data = coco([entry()], [thing()])
    image, label = data[0]
    assert data.classes == ("nut", "screw")
    assert image.shape == (60, 100, 3)
    np.testing.assert_array_equal(label, [[10, 20, 39, 34, 1, 0]])


def test_a_crowd_is_difficult_and_can_be_left_out(coco):
    annotations = [thing(iscrowd=0), thing(bbox=(0, 0, 90, 50), iscrowd=1), thing()]
    assert coco([entry()], annotations).label(0)[:, 5].tolist() == [0, 1, 0]
    assert len(coco([entry()], annotations, difficult=False).label(0)) == 2


def test_a_crowd_is_neither_rewarded_nor_punished_by_cocos_map(coco):
    pytest.importorskip("pycocotools")
    data = coco([entry()], [thing(), thing(bbox=(0, 0, 90, 50), iscrowd=1)])
    label = data.label(0)
    inside = np.array([[60, 5, 70, 15], [75, 5, 85, 15]])  # of the crowd
    boxes = np.concatenate([inside, label[:1, :4]])[None]
    found = np.ones((1, 3, 1)), np.array([0.9, 0.8, 0.7]).reshape(1, 3, 1), boxes
    figures = coco_map(lambda images: found, [(None, label[None])], data.classes)
    assert figures["mAP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("stated", "shape"), [((100, 60), (60, 100, 3)), ((60, 100), (100, 60, 3))]
)
def test_boxes_lie_in_the_frame_of_the_stated_size(coco, tmp_path, stated, shape):
    picture(tmp_path / "val2017" / "1.jpg", orientation=ROTATED)
    image, label = coco([entry(size=stated)], [thing(bbox=(10, 20, 30, 15))])[0]
    assert image.shape == shape
    np.testing.assert_array_equal(label[0, :4], [10, 20, 39, 34])


@pytest.mark.parametrize("key", ["a7", 10**12, "007"])
def test_ids_are_anything(coco, key):
    categories = [{"id": key, "name": "x"}, {"id": 0, "name": "y"}]
    data = coco([entry(key)], [thing(key, key)], categories)
    assert data.label(0)[0, 4] == data.classes.index("x")


def test_an_id_may_be_a_number_here_and_a_text_there(coco):
    assert len(coco([entry(1)], [thing("1", "7")]).label(0)) == 1


@pytest.mark.parametrize(
    "annotation",
    [
        thing(99),
        thing(None),
        thing(category=12),
        thing(bbox=(1, 2, 3)),
        thing(bbox=(1, 2, "x", 4)),
        thing(bbox=(1, 2, "nan", 4)),
        thing(bbox=(1, 2, None, 4)),
        thing(bbox=(1, 2, 0, 4)),
        thing(bbox=(1, 2, -3, 4)),
        {"image_id": 1, "category_id": 7},
    ],
)
def test_objects_that_cannot_be_used_are_counted_and_named(coco, annotation):
    data = coco([entry()], [thing(), annotation])
    assert len(data.label(0)) == 1
    assert count_images(data)["repairs"] == {"left out": 1}
    ((_, reason),) = data.problems
    assert reason.startswith("annotations[1] left out: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_number_that_is_none_loses_its_object_and_not_the_file(
    coco, tmp_path, number
):
    coco([entry()], [thing(bbox=(1, 2, 12345, 4)), thing(area=12345)])
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("12345", number))
    data = coco_gluoncv(tmp_path, "val2017")
    np.testing.assert_array_equal(data.label(0), [[10, 20, 39, 34, 1, 0]])
    assert count_images(data)["repairs"] == {"left out": 1}


@pytest.mark.parametrize("bbox", [(10, 20, 0.4, 9), (10, 20, 9, 0.9), (10, 20, 1, 9)])
def test_an_object_of_less_than_a_pixel_has_no_area(coco, bbox):
    data = coco([entry()], [thing(), thing(bbox=bbox)])
    assert len(data.label(0)) == 1
    assert count_images(data)["repairs"] == {"no area": 1}


@pytest.mark.parametrize(("flag", "crowd"), [("1", 1), (True, 1), ("true", 1), (0, 0)])
def test_crowds_as_tools_mark_them(coco, flag, crowd):
    assert coco([entry()], [thing(iscrowd=flag)]).label(0)[0, 5] == crowd


def test_entries_of_one_file_are_one_image_with_all_their_objects(coco):
    first, second = (1, 2, 30, 15), (40, 2, 9, 9)
    data = coco(
        [entry(), entry(2), entry(2)],
        [thing(1, bbox=first), thing(2, bbox=second), thing(2, bbox=first)],
    )
    np.testing.assert_array_equal(
        data.label(0)[:, :4], [[1, 2, 30, 16], [40, 2, 48, 10]]
    )
    assert len(data) == 1
    assert count_images(data)["repairs"] == {"listed twice": 2}


@pytest.mark.parametrize("name", ["1.JPG", "/old/val2017/1.jpg", "val2017/../1.jpg"])
def test_entries_that_call_a_file_differently_are_one_image(coco, tmp_path, name):
    picture(tmp_path / "1.jpg")
    data = coco([entry(), entry(2, name)], [thing(1), thing(2, bbox=(1, 2, 9, 9))])
    files = {data.path(i).resolve() for i in range(len(data))}
    assert len(files) == len(data)
    assert sum(len(data.label(i)) for i in range(len(data))) == 2


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + ".jpg", "a\0b.jpg"])
def test_a_name_that_no_file_can_have_is_skipped(coco, name):
    data = coco([entry(), entry(2, name)], [thing()])
    assert (len(data), data.skipped) == (1, 1)
    assert max(len(text) for text in data.problems[0]) < 400


def test_an_entry_may_repeat_its_own_objects(coco):
    assert len(coco([entry()], [thing(), thing()]).label(0)) == 2


def test_one_category_in_two_encodings_of_its_letters(coco):
    names = [unicodedata.normalize(form, "é") for form in ("NFD", "NFC")]
    rows = [{"id": i, "name": name} for i, name in enumerate(names)]
    data = coco([entry()], [thing(category=0), thing(category=1)], rows)
    assert data.classes == (names[1],)
    assert data.label(0)[:, 4].tolist() == [0, 0]


def test_an_id_of_thousands_of_digits(coco):
    rows = [{"id": "9" * 5000, "name": "odd"}, {"id": -2, "name": "first"}]
    assert coco([entry()], [], rows).classes == ("first", "odd")


@pytest.mark.parametrize(
    ("on_disk", "named"),
    [
        ("e\u0301.jpg", "\xe9.jpg"),
        ("2.jpg", "2.JPG"),
        ("2.jpg", "2"),
        ("a b.jpg", "a%20b.jpg"),
        ("2.jpg", "C:\\photos\\val2017\\2.jpg"),
        ("2.jpg", "/elsewhere/val2017/2.jpg"),
        ("cam/2.jpg", "cam\\2.JPG"),
    ],
)
def test_a_file_that_is_there_is_found(coco, tmp_path, on_disk, named):
    picture(tmp_path / "val2017" / on_disk)
    data = coco([entry(name=named)], [thing()])
    assert (data.path(0), data.skipped) == (tmp_path / "val2017" / on_disk, 0)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("other/1.jpg", r"only '1\.jpg' is there"),
        ("2.jpg", "only 'cam/2' is there"),
        ("3.jpg", r"val2017/3\.jpg: no such file"),
    ],
)
def test_a_file_that_is_elsewhere_is_named(coco, tmp_path, named, message):
    picture(tmp_path / "val2017" / "cam" / "2.jpg")
    with pytest.raises(ValueError, match=f"only 0 of the 1 .*{message}"):
        coco([entry(name=named)], [])


def test_boxes_are_clipped_and_counted(coco):
    data = coco([entry()], [thing(bbox=(-5, -5, 20, 20)), thing(bbox=(200, 1, 9, 9))])
    np.testing.assert_array_equal(data.label(0)[:, :4], [[0, 0, 14, 14]])
    assert count_images(data)["repairs"] == {"clipped": 1, "no area": 1}


def test_images_that_are_not_there_are_skipped_and_counted(coco, tmp_path):
    for name in ("4.jpg", "5.jpg"):
        picture(tmp_path / "val2017" / name)
    others = [entry(4, "4.jpg"), entry(5, "5.jpg")]
    entries = [entry(), entry(2, "2.jpg"), {"id": 3}, *others]
    data = coco(entries, [thing(), thing(2)])
    assert count_images(data)["images"] == 3
    assert count_images(data)["skipped"] == 2
    with pytest.raises(ValueError, match=r"only 1 of the 3 .*images\[2\]: has no id"):
        coco(entries[:3], [thing()])


def test_an_image_without_objects_is_background(coco, tmp_path):
    picture(tmp_path / "val2017" / "2.jpg")
    data = coco([entry(), entry(2, "2.jpg")], [thing()])
    assert [len(data.label(i)) for i in range(2)] == [1, 0]


def test_classes_of_ones_choice(coco, tmp_path):
    for key in (2, 3, 4):
        picture(tmp_path / "val2017" / f"{key}.jpg")
    annotations = [thing(), thing(2, 3), thing(2, 7), thing(3, 3)]
    data = coco(
        [entry(key, f"{key}.jpg") for key in (1, 2, 3, 4)],
        annotations,
        classes=["screw"],
        others="ignore",
    )
    assert [data.label(i)[:, 4].tolist() for i in range(len(data))] == [[0], [0]]
    assert count_images(data)["ignored"] == {"objects": {"nut": 2}, "images": 2}
    with pytest.raises(ValueError, match=r"class 'bolt' is nowhere.* nut, screw"):
        coco([entry()], annotations[:1], classes=["bolt"], others="ignore")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([], "the content"),
        ({}, "images"),
        ({"images": [3], "annotations": [], "categories": []}, r"images\[0\]"),
        ({"images": [], "annotations": [], "categories": []}, "categories"),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1}]},
            r"categories\[0\]\.name",
        ),
        (
            {"images": [], "annotations": [], "categories": CATEGORIES[:1] * 2},
            r"categories\[1\]\.id",
        ),
        (
            {
                "images": [entry(), entry(name="2.jpg")],
                "annotations": [],
                "categories": CATEGORIES,
            },
            r"images\[1\]\.id is 1",
        ),
        (
            {
                "images": [entry(), entry(2, size=(50, 30))],
                "annotations": [],
                "categories": CATEGORIES,
            },
            r"images\[1\]: '1.jpg': width and height is \[50, 30\]",
        ),
    ],
)
def test_a_file_of_another_format_is_refused_by_key(tmp_path, content, place):
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"mine\.json: {place}") as info:
        coco_gluoncv(tmp_path, "mine.json")
    assert len(str(info.value).splitlines()) == 1


@pytest.mark.parametrize(
    "place", ["labels/1.jpg", "images/1.jpg", "images/train/1.jpg", "1.jpg"]
)
def test_a_file_of_ones_own_and_where_its_images_may_be(tmp_path, place):
    picture(tmp_path / place)
    content = {
        "images": [entry()],
        "annotations": [thing()],
        "categories": CATEGORIES,
    }
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels" / "train.json").write_text(json.dumps(content))
    data = coco_gluoncv(tmp_path, "labels/train.json")
    assert data.path(0) == tmp_path / place


def test_a_recipe_states_file_folder_and_classes(tmp_path):
    picture(tmp_path / "photos" / "sub" / "1.jpg")
    content = {
        "images": [entry(name="sub\\1.jpg")],
        "annotations": [thing(), thing(category=3)],
        "categories": CATEGORIES,
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    settings = DetectionData(
        kind="coco",
        root=str(tmp_path),
        train="a.json",
        images="photos",
        classes=("screw",),
        others="ignore",
    )
    data = settings.open("a.json")
    assert (len(data), data.classes) == (1, ("screw",))
    with pytest.raises(ValueError, match="nowhere: there is no such folder of images"):
        settings.replace(images="nowhere").open("a.json")
    with pytest.raises(ValueError, match="images is 'photos'; allowed: null"):
        settings.replace(kind="voc")


def test_classes_are_in_the_order_of_ids_as_gluoncv_has_them(coco):
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    names = COCODetection.CLASSES
    rows = [{"id": i, "name": name} for i, name in zip(ids, names)]
    assert coco([entry()], [], rows[::-1]).classes == tuple(names)
