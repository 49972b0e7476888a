from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from gluoncv.data import VOCDetection
from PIL import Image

from gluon_compress.data import (
    BrokenImage,
    ImageFolder,
    VOCLayout,
    coco_gluoncv,
    count_images,
    voc_gluoncv,
)

SIZE = (40, 30)  # width, height of the made images


def box(*corners, tags=("xmin", "ymin", "xmax", "ymax")) -> str:
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, corners))


def thing(name: str = "cat", corners=(11, 6, 31, 26), more: str = "") -> str:
    return f"<object><name>{name}</name>{more}<bndbox>{box(*corners)}</bndbox></object>"


def annotation(*objects: str, size=SIZE) -> str:
    width, height = size
    shape = f"<size><width>{width}</width><height>{height}</height><depth /></size>"
    return f"<annotation>{shape}{''.join(objects)}</annotation>"


def picture(size=SIZE, extension: str = ".jpg", value: int = 90) -> bytes:
    image = np.full((size[1], size[0], 3), value, np.uint8)
    return cv2.imencode(extension, image)[1].tobytes()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def voc(tmp_path):
    """Return a function that adds images to a folder in VOC layout."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    names: list[str] = []

    def add(name="a", xml=None, data=None, *, extension=".jpg"):
        file = tmp_path / "JPEGImages" / (name + extension)
        file.write_bytes(picture(extension=extension) if data is None else data)
        xml = annotation(thing()) if xml is None else xml
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml)
        names.append(name)
        listing = tmp_path / "ImageSets" / "Main" / "train.txt"
        listing.write_text("".join(f"{n}\n" for n in names))
        return tmp_path

    return add


def test_item_is_a_picture_and_its_boxes_one_less_than_written(voc):
    image, label = VOCLayout(voc(), "train")[0]
    assert (image.shape, image.dtype) == ((30, 40, 3), np.uint8)
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, [[10, 5, 30, 25, 0, 0]])


def test_picture_is_rgb(voc):
    image = np.zeros((30, 40, 3), np.uint8)
    image[..., 2] = 200  # OpenCV writes blue first
    data = cv2.imencode(".png", image)[1].tobytes()
    loaded, _ = VOCLayout(voc(data=data, extension=".png"), "train")[0]
    np.testing.assert_array_equal(loaded[0, 0], [200, 0, 0])


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".png", ".JPG"])
def test_image_extensions(voc, extension):
    assert len(VOCLayout(voc(extension=extension), "train")) == 1


def test_float_coordinates_are_kept(voc):
    root = voc(xml=annotation(thing(corners=(11.25, 6.5, 31.75, 26))))
    np.testing.assert_array_equal(
        VOCLayout(root, "train").label(0)[0, :4], [10.25, 5.5, 30.75, 25]
    )


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("", 0),
        ("<difficult/>", 0),
        ("<difficult>0</difficult>", 0),
        ("<difficult> 1 </difficult>", 1),
        ("<difficult>True</difficult>", 1),
        ("<difficult>Unspecified</difficult>", 0),
    ],
)
def test_difficult_tag(voc, tag, expected):
    label = VOCLayout(voc(xml=annotation(thing(more=tag))), "train").label(0)
    assert label[0, 5] == expected


def test_difficult_objects_can_be_left_out(voc):
    hard = thing(corners=(2, 2, 9, 9), more="<difficult>1</difficult>")
    root = voc(xml=annotation(thing(), hard))
    assert len(VOCLayout(root, "train").label(0)) == 2
    assert len(VOCLayout(root, "train", difficult=False).label(0)) == 1


def test_image_without_objects_is_background(voc):
    voc("a")
    data = VOCLayout(voc("b", annotation()), "train")
    assert data.label(1).shape == (0, 6)
    assert data.problems == []


@pytest.mark.parametrize(
    ("corners", "expected", "repair"),
    [
        ((-5, 6, 60, 99), (0, 5, 40, 30), "clipped"),
        ((31, 26, 11, 6), (10, 5, 30, 25), "swapped"),
        ((11, 6, 11, 26), None, "no area"),
        ((50, 6, 60, 26), None, "no area"),
    ],
)
def test_boxes_are_repaired_and_counted(voc, corners, expected, repair):
    data = VOCLayout(voc(xml=annotation(thing(corners=corners), thing())), "train")
    rows = [] if expected is None else [expected]
    assert [tuple(row) for row in data.label(0)[:-1, :4]] == rows
    assert data.repairs[repair] == 1


@pytest.mark.parametrize(
    ("corners", "repairs"),
    [
        # Float32 has no number between these two, and none that is further apart.
        (("14.560000000000002", 6, "14.56", 26), {"swapped": 1, "no area": 1}),
        (("14.56", 6, "14.560000000000002", 26), {"no area": 1}),
        (("14.56", 6, "14.56001", 26), {}),
    ],
)
def test_box_that_float32_joins_has_no_area(voc, corners, repairs):
    data = VOCLayout(voc(xml=annotation(thing(corners=corners), thing())), "train")
    assert count_images(data)["repairs"] == repairs
    areas = np.prod(data.label(0)[:, 2:4] - data.label(0)[:, :2], axis=1)
    assert (areas > 0).all()
    assert len(areas) == (1 if repairs else 2)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (f"<object><bndbox>{box(1, 1, 9, 9)}</bndbox></object>", "no <name>"),
        (f"<object><name/><bndbox>{box(1, 1, 9, 9)}</bndbox></object>", "no <name>"),
        ("<object><name>cat</name></object>", "<bndbox/xmin> is ''"),
        (thing(corners=(1, "x", 9, 9)), "<bndbox/ymin> is 'x', not a number"),
        (thing(corners=(1, 1, "nan", 9)), "<bndbox/xmax> is 'nan'"),
    ],
)
def test_unusable_object_is_left_out_and_named(voc, broken, reason):
    data = VOCLayout(voc(xml=annotation(thing(), broken)), "train")
    assert len(data.label(0)) == 1
    ((file, text),) = data.problems
    assert file.endswith("a.xml")
    assert "object 2 left out" in text
    assert data.repairs["left out"] == 1
    assert reason in text


def test_name_inside_an_attribute_is_not_the_class(voc):
    attribute = "<attributes><attribute><name>track_id</name></attribute></attributes>"
    data = VOCLayout(voc(xml=annotation(thing(more=attribute))), "train")
    assert data.classes == ("cat",)


# ---------------------------------------------------------------- classes


def test_classes_are_scanned_in_all_annotations(voc):
    root = voc(xml=annotation(thing("dog")))
    (root / "Annotations" / "other.xml").write_text(annotation(thing("Ant")))
    assert VOCLayout(root, "train").classes == ("Ant", "dog")


def test_classes_file_of_the_folder_decides_ids(voc):
    root = voc()
    (root / "classes.txt").write_bytes("\ufeffdog\r\n\r\n cat \r\n".encode())
    data = VOCLayout(root, "train")
    assert data.classes == ("dog", "cat")
    assert data.label(0)[0, 4] == 1


def test_classes_from_a_file_or_a_list(voc, tmp_path):
    root = voc()
    (tmp_path / "names").write_text("x\ncat\n")
    for given in (["x", "cat"], tmp_path / "names", str(tmp_path / "names")):
        assert VOCLayout(root, "train", given).classes == ("x", "cat")


@pytest.mark.parametrize("name", ["dog", "Cat"])
def test_unknown_class_names_file_class_and_allowed(voc, name):
    root = voc(xml=annotation(thing(name)))
    with pytest.raises(ValueError, match=rf"a\.xml: class '{name}'; allowed: cat, ox"):
        VOCLayout(root, "train", ["cat", "ox"])


@pytest.mark.parametrize(
    ("names", "message"), [(["a", "a"], "'a' is there twice"), ([], "no class name")]
)
def test_class_names_are_distinct_and_there(voc, names, message):
    with pytest.raises(ValueError, match=message):
        VOCLayout(voc(), "train", names)


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("\ufeffa\r\nb c\r\n\r\n", ["a", "b c"]),
        ("a  1\nb c -1\n", ["a", "b c"]),
        ("b c\t0\n", ["b c"]),
        ("a.jpg\n", ["a"]),
        ("x 1\nx 1 1\n", ["x 1"]),
    ],
)
def test_lists_of_all_kinds(voc, text, names):
    for name in ("a", "b c", "x 1"):
        root = voc(name)
    (root / "ImageSets" / "Main" / "odd.txt").write_bytes(text.encode())
    data = VOCLayout(root, "odd")
    assert [data.path(i).stem for i in range(len(data))] == names


def test_a_list_of_comments_is_empty(voc):
    root = voc()
    (root / "ImageSets" / "Main" / "odd.txt").write_text("# of May\n")
    with pytest.raises(ValueError, match="names no image"):
        VOCLayout(root, "odd")


def test_a_comment_in_a_list_is_no_image(voc):
    root = voc("#1")
    (root / "ImageSets" / "Main" / "odd.txt").write_text("# of May\n#1\n#\n")
    data = VOCLayout(root, "odd")
    assert [data.path(i).stem for i in range(len(data))] == ["#1"]
    assert data.skipped == 0


def test_image_listed_twice_is_there_once(voc):
    voc()
    data = VOCLayout(voc("a"), "train")
    assert len(data) == 1
    assert data.repairs["listed twice"] == 1


@pytest.mark.parametrize("name", ["cam1/7", "cafe\u0301"])
def test_images_and_annotations_share_a_name(voc, name):
    root = voc()
    for part, file in (("JPEGImages", "a.jpg"), ("Annotations", "a.xml")):
        new = (root / part / (name + file[1:])).with_suffix(file[1:].upper())
        new.parent.mkdir(exist_ok=True)
        (root / part / file).rename(new)
    lines = root / "ImageSets" / "Main" / "train.txt"
    lines.write_text(f"{name}\n".replace("e\u0301", "\u00e9"), encoding="utf-8")
    assert len(VOCLayout(root, "train").label(0)) == 1


def test_clutter_is_no_annotation(voc):
    root = voc()
    (root / "Annotations" / "._a.xml").write_text(annotation(thing("ghost")))
    assert VOCLayout(root, "train").classes == ("cat",)


def test_most_lines_without_an_image_are_an_error(voc):
    root = voc()
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    with pytest.raises(ValueError, match="only 1 of the 3 images"):
        VOCLayout(root, "train")


@pytest.mark.parametrize("part", ["", "JPEGImages", "Annotations"])
def test_missing_folder_is_named(voc, part):
    root = voc()
    if part:
        (root / part).rename(root / "gone")
    with pytest.raises(ValueError, match=f"{part or 'nowhere'}: there is no such"):
        VOCLayout(root if part else root / "nowhere", "train", ["cat"])


def test_missing_list_is_named(voc):
    with pytest.raises(ValueError, match=r"Main.test\.txt: there is no such file"):
        VOCLayout(voc(), "test")


def test_empty_list_is_an_error(voc):
    root = voc()
    (root / "ImageSets" / "Main" / "none.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"none\.txt: the list names no image"):
        VOCLayout(root, "none")


# ---------------------------------------------------------------- broken files


def with_good_ones(voc, **broken):
    for name in "bcd":
        voc(name)
    return voc("a", **broken)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"data": picture()[:-10]}, "a.jpg: the image is cut short"),
        ({"data": b""}, "a.jpg: not a readable image"),
        ({"data": b"<html>"}, "a.jpg: not a readable image"),
        ({"xml": "<annotation>\n<object>\n</annotation>"}, "a.xml: line 3: not XML"),
        ({"xml": ""}, "a.xml: line 1: not XML"),
    ],
)
def test_broken_file_is_skipped_and_named(voc, broken, reason):
    data = VOCLayout(with_good_ones(voc, **broken), "train")
    assert len(data) == 3
    ((_, text),) = data.problems
    assert reason in text
    assert "\n" not in text


@pytest.mark.parametrize("part", ["JPEGImages/a.jpg", "Annotations/a.xml"])
def test_missing_file_is_skipped_and_named(voc, part):
    root = with_good_ones(voc)
    (root / part).unlink()
    data = VOCLayout(root, "train")
    assert len(data) == 3
    assert str(root / part).split(".")[0] in data.problems[0][1]


def test_cut_image_with_a_thumbnail_is_seen_as_cut(voc):
    exif = Image.Exif()
    exif[0x010E] = "x"
    data = encoded(Image.new("RGB", (400, 300), 7), "JPEG", exif=exif)
    at = data.index(b"\xff\xe1") + 4
    # The end mark of a thumbnail lies within the EXIF segment.
    thumbnail = data[: at - 2] + (len(exif.tobytes()) + 4).to_bytes(2, "big")
    data = thumbnail + b"\xff\xd9" + data[at:]
    data = VOCLayout(with_good_ones(voc, data=data[:-80]), "train")
    assert "cut short" in data.problems[0][1]


def test_whole_image_with_something_appended_is_fine(voc):
    root = voc(data=picture() + b"film" * 100)
    assert VOCLayout(root, "train").problems == []


def test_image_too_small_to_show_an_object_is_skipped_and_named(voc):
    data = VOCLayout(with_good_ones(voc, data=picture((1, 1))), "train")
    assert (len(data), data.skipped) == (3, 1)
    assert "1 x 1 pixels; allowed: from 8 a side" in data.problems[0][1]


def test_mostly_broken_set_is_an_error(voc):
    voc("a", data=b"")
    voc("b", data=b"")
    root = voc("c")
    with pytest.raises(ValueError, match="train.txt: only 1 of the 3 images") as info:
        VOCLayout(root, "train")
    assert "a.jpg" in str(info.value)
    assert "\n" not in str(info.value)


def broken_inside() -> bytes:
    """Return a PNG whose header is right and whose pixels are not."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    data = bytearray(cv2.imencode(".png", noise)[1].tobytes())
    data[200:400] = bytes(200)
    return bytes(data)


def test_image_broken_inside_is_named_each_time(voc):
    voc("a", data=broken_inside(), extension=".png")
    data = VOCLayout(voc("b"), "train")
    for _ in range(2):
        with pytest.raises(BrokenImage, match="a.png: cannot be decoded"):
            data[0]
    assert data.problems == [(str(data.path(0)), f"{data.path(0)}: cannot be decoded")]
    assert count_images(data) == {"images": 1, "skipped": 1, "repairs": {}}


def test_verify_reports_what_is_there(voc):
    voc("a", data=broken_inside(), extension=".png")
    voc("b", annotation(thing(), thing("dog"), thing(corners=(1, 1, 99, 9))))
    report = VOCLayout(voc("c"), "train").verify()
    assert report["images"] == 2
    assert report["objects"] == {"cat": 3, "dog": 1}
    assert report["repairs"] == {"clipped": 1}
    assert len(report["problems"]) == 1


def test_verify_refuses_a_mostly_broken_set(voc):
    data = VOCLayout(voc(data=broken_inside(), extension=".png"), "train")
    with pytest.raises(ValueError, match="only 0 of the 1 images"):
        data.verify()


def test_index_out_of_range(voc):
    data = VOCLayout(voc(), "train")
    assert data[-1][0].shape == (30, 40, 3)
    with pytest.raises(IndexError, match="index 1: there are 1"):
        data[1]


# ---------------------------------------------------------------- kinds of image


@pytest.mark.parametrize(
    ("data", "extension", "value"),
    [
        (encoded(Image.new("L", SIZE, 90), "JPEG"), ".jpg", 90),
        (encoded(Image.new("CMYK", SIZE, (0, 0, 0, 165)), "JPEG"), ".jpg", 90),
        (encoded(Image.new("RGBA", SIZE, (90, 90, 90, 5)), "PNG"), ".png", 90),
        (encoded(Image.new("I;16", SIZE, 90 * 257), "PNG"), ".png", 90),
        (encoded(Image.new("1", SIZE, 1), "PNG"), ".png", 255),
    ],
    ids=["grey", "cmyk", "alpha", "16 bits", "1 bit"],
)
def test_every_kind_of_image_becomes_rgb_of_8_bits(voc, data, extension, value):
    image, _ = VOCLayout(voc(data=data, extension=extension), "train")[0]
    assert (image.shape, image.dtype) == ((30, 40, 3), np.uint8)
    assert np.abs(image.astype(int) - value).max() <= 2


def turned(size=SIZE) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.new("RGB", size, 9), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("annotated", "shape"),
    [((40, 30), (30, 40)), ((30, 40), (40, 30)), ((7, 7), (40, 30))],
    ids=["as stored", "as shown", "neither"],
)
def test_rotation_follows_the_size_in_the_annotation(voc, annotated, shape):
    root = voc(xml=annotation(thing(corners=(1, 1, 99, 99)), size=annotated))
    (root / "JPEGImages" / "a.jpg").write_bytes(turned())
    image, label = VOCLayout(root, "train", resized="keep")[0]
    assert image.shape[:2] == shape
    np.testing.assert_array_equal(label[0, :4], [0, 0, shape[1], shape[0]])


def test_other_size_than_annotated_is_counted(voc):
    root = voc(xml=annotation(thing(), size=(400, 300)))
    data = VOCLayout(root, "train", resized="keep")
    assert data.repairs["size differs"] == 1
    np.testing.assert_array_equal(data.label(0)[0, :4], [10, 5, 30, 25])


def test_boxes_of_another_size_are_scaled_by_choice(voc):
    root = voc(xml=annotation(thing(corners=(11, 6, 31, 11)), size=(80, 15)))
    data = VOCLayout(root, "train", resized="scale")
    assert count_images(data)["repairs"] == {"scaled": 1}
    np.testing.assert_array_equal(data.label(0)[0, :4], [10 / 2, 5 * 2, 30 / 2, 20])


def scaled_set(voc, *, resized: int, whole: int):
    """Add images, some at a quarter of the size that they were annotated at."""
    large = annotation(thing(corners=(81, 61, 121, 101)), size=(160, 120))
    for number in range(resized):
        root = voc(f"small{number}", large)
    for number in range(whole):
        root = voc(f"whole{number}")
    return root


def test_most_images_of_another_size_are_refused(voc):
    root = scaled_set(voc, resized=2, whole=1)
    with pytest.raises(ValueError, match=r"small0\.jpg.*160x120.*2 of 3") as info:
        VOCLayout(root, "train")
    assert all(word in str(info.value) for word in ("--resized", '"scale"', '"keep"'))


def test_some_images_of_another_size_are_counted_and_named(voc):
    data = VOCLayout(scaled_set(voc, resized=1, whole=1), "train")
    assert count_images(data) == {
        "images": 2,
        "skipped": 0,
        "repairs": {"size differs": 1, "no area": 1},
    }
    assert data.doubts == []  # its only box is lost
    ((file, reason),) = VOCLayout(_with_box(data.root), "train").doubts
    assert file.endswith("small0.jpg")
    assert "160x120" in reason


def _with_box(root):
    xml = annotation(thing(), size=(160, 120))
    (root / "Annotations" / "small0.xml").write_text(xml)
    return root


def test_skipped_are_images_and_not_the_objects_that_are_left_out(voc):
    nameless = f"<object><bndbox>{box(1, 1, 9, 9)}</bndbox></object>"
    voc("a", annotation(thing(), nameless, nameless))
    voc("b", data=b"no picture")
    voc("c", xml="no annotation")
    voc("d", data=broken_inside(), extension=".png")
    for name in "efg":
        root = voc(name)
    data = VOCLayout(root, "train")
    found = {"images": 5, "skipped": 2, "repairs": {"left out": 2}}
    assert count_images(data) == found
    data.verify()  # now the pixels are known too
    assert count_images(data) == {**found, "images": 4, "skipped": 3}
    assert len(data.problems) == 5


def test_counts_of_a_set_without_quirks(voc):
    empty = {"images": 1, "skipped": 0, "repairs": {}}
    assert count_images(VOCLayout(voc(), "train")) == empty


def test_missing_size_is_fine(voc):
    data = VOCLayout(voc(xml=f"<annotation>{thing()}</annotation>"), "train")
    assert data.repairs["size differs"] == 0


def test_cache_keeps_no_more_than_it_may(voc):
    for name in "abc":
        root = voc(name)
    data = VOCLayout(root, "train", cache_bytes=2 * 30 * 40 * 3)
    first = [data[i][0] for i in range(3)]
    assert [data[i][0] is first[i] for i in range(3)] == [True, True, False]


# ---------------------------------------------------------------- other layouts


class RealVOC(VOCDetection):
    CLASSES = ("platelets", "rbc", "wbc")


@pytest.mark.data
def test_real_labels_are_those_of_gluoncv(shared_data):
    theirs = RealVOC(str(shared_data), [("bccd", "test")])
    ours = VOCLayout(shared_data / "bccd", "test")
    assert [name.lower() for name in ours.classes] == list(theirs.classes)
    for index in range(len(ours)):
        np.testing.assert_array_equal(ours.label(index), theirs._load_label(index))
    image, _ = theirs[3]
    np.testing.assert_allclose(ours[3][0], image.asnumpy(), atol=3)


@pytest.mark.data
def test_real_set_with_float_boxes_and_a_class_list(shared_data):
    root = shared_data / "fod"
    data = VOCLayout(root, "test10", root / "classes10.txt")
    assert len(data.classes) == 10
    assert data.problems == []
    for index in range(0, len(data), 50):
        image, label = data[index]
        assert (label[:, 2:4] <= image.shape[1::-1]).all()


@pytest.fixture
def pascal(tmp_path):
    """Return a folder that holds tiny VOC2007 and VOC2012 sets."""
    for year, splits in (("VOC2007", ["trainval", "test"]), ("VOC2012", ["trainval"])):
        for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (tmp_path / year / name).mkdir(parents=True)
        for split in splits:
            name = f"{year}_{split}"
            (tmp_path / year / "JPEGImages" / f"{name}.jpg").write_bytes(picture())
            xml = annotation(thing(more="<difficult>1</difficult>"))
            (tmp_path / year / "Annotations" / f"{name}.xml").write_text(xml)
            listing = tmp_path / year / "ImageSets" / "Main" / f"{split}.txt"
            listing.write_text(f"{name}\n")
    return tmp_path


def test_pascal_voc_by_name_is_both_years(pascal):
    data = voc_gluoncv(pascal, "trainval")
    assert count_images(data)["images"] == 2
    assert len(data.classes) == 20
    image, label = data[1]
    assert image.shape == (30, 40, 3)
    np.testing.assert_array_equal(label, [[10, 5, 30, 25, 7, 1]])


def test_pascal_voc_by_year(pascal):
    assert len(voc_gluoncv(pascal, [(2007, "test")])) == 1


def test_pascal_voc_is_read_with_the_care_of_other_folders(pascal):
    folder = pascal / "VOC2012"
    (folder / "JPEGImages" / "b.jpg").write_bytes(turned())
    stored = annotation(thing(corners=(2, 2, 39, 9)), thing("cow"))
    (folder / "Annotations" / "b.xml").write_text(stored)
    listing = folder / "ImageSets" / "Main" / "odd.txt"
    listing.write_text("VOC2012_trainval  1\n\nb -1\nmissing 1\n")
    data = voc_gluoncv(pascal, "odd", ["cat"], others="ignore")
    image, label = data[1]
    assert image.shape == (30, 40, 3)  # as annotated, not as EXIF turns it
    np.testing.assert_array_equal(label, [[1, 1, 38, 8, 0, 0]])
    counts = count_images(data)
    assert (counts["images"], counts["skipped"]) == (2, 1)
    assert counts["ignored"] == {"objects": {"cow": 1}, "images": 0}


@pytest.mark.parametrize("splits", ["val", [(2012, "test")]])
def test_pascal_voc_names_the_missing_list(pascal, splits):
    with pytest.raises(ValueError, match=r"Main.(val|test)\.txt: .*o such"):
        voc_gluoncv(pascal, splits)


def test_coco_names_the_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"instances_val2017\.json: there is no such"):
        coco_gluoncv(tmp_path, "val2017")


@pytest.fixture
def folders(tmp_path):
    for name, count in (("n2", 2), ("n1", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.JPEG").write_bytes(picture())
    return tmp_path


def test_image_folder_gives_sorted_class_ids(folders):
    data = ImageFolder(folders)
    assert data.classes == ("n1", "n2")
    assert [data[i][1] for i in range(3)] == [0, 1, 1]
    assert data[0][0].shape == (30, 40, 3)


def test_image_folder_takes_the_ids_of_another_set(folders):
    data = ImageFolder(folders, ["n2", "n0", "n1"])
    assert [data[i][1] for i in range(3)] == [2, 0, 0]


def test_image_folder_refuses_a_strange_class(folders):
    with pytest.raises(ValueError, match="n2: class 'n2'; allowed: n1"):
        ImageFolder(folders, ["n1"])


def test_image_folder_names_a_broken_image(folders):
    (folders / "n1" / "0.JPEG").write_bytes(b"nothing")
    data = ImageFolder(folders)
    with pytest.raises(BrokenImage, match="0.JPEG: "):
        data[0]
    assert data[1][1] == 1
    assert count_images(data) == {"images": 2, "skipped": 1}


def test_image_folder_ignores_files_beside_the_folders(folders):
    (folders / "README").write_text("x")
    assert len(ImageFolder(folders)) == 3


def test_folders_without_images_are_no_classes(folders, caplog):
    for name in (".ipynb_checkpoints", "@eaDir", "empty"):
        (folders / name).mkdir()
    (folders / "@eaDir" / "1.jpg").write_bytes(picture())
    (folders / "n1" / "._0.jpg").write_bytes(b"of a Mac")
    (folders / "n1" / "x.jpg").mkdir()
    data = ImageFolder(folders, ["n1", "n2"])
    assert (data.classes, data.labels) == (("n1", "n2"), [0, 1, 1])
    (record,) = caplog.records
    assert "empty" in record.getMessage()
    assert "@eaDir" not in record.getMessage()


def test_image_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no folder of images"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        ImageFolder(tmp_path / "nowhere")


@pytest.mark.data
def test_real_image_folder_with_grey_images(shared_data):
    data = ImageFolder(shared_data / "imagenette" / "val")
    assert len(data) == 3925
    assert len(data.classes) == 10
