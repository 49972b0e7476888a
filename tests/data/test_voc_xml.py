from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluon_compress.data import ImageFolder, VOCLayout
from gluon_compress.data.class_choice import ClassChoice
from gluon_compress.data.voc_xml import (
    ENCODINGS,
    is_yes,
    read_annotation,
    read_class_names,
)
from images import picture

COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
BOX = "".join(
    f"<{corner}>{value}</{corner}>"
    for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), (1, 2, 11, 22))
)


def annotation(name: str, head: str = "") -> str:
    return (
        f"{head}<annotation><object><name>{name}</name>"
        f"<bndbox>{BOX}</bndbox></object></annotation>"
    )


def objects(path, content: bytes) -> tuple:
    path.write_bytes(content)
    return read_annotation(path).objects


def write_picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(0, 0)).save(file)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.xml"


@pytest.mark.parametrize("encoding", [*ENCODINGS, "GB2312", "Shift-JIS", "utf-16-le"])
def test_annotations_in_encodings_of_several_bytes(path, encoding):
    names = ("文字", "글자", "漢字")
    for name in names:
        try:
            content = annotation(name, f'<?xml version="1.0" encoding="{encoding}"?>')
            content = content.encode(encoding)
        except UnicodeEncodeError:  # not every letter is in every encoding
            continue
        if encoding == "utf-16-le":
            content = codecs.BOM_UTF16_LE + content
        assert objects(path, content) == ((name, (1, 2, 11, 22), False),)
        return
    raise AssertionError(f"none of {names} is in {encoding}")


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
@pytest.mark.parametrize("declared", ["gb2312", "utf-16-le", "nonsense"])
def test_a_byte_order_mark_is_right_whatever_is_declared(
    path, mark, encoding, declared
):
    head = f'<?xml version="1.0" encoding="{declared}"?>\n'
    content = mark + annotation("猫", head).encode(encoding)
    assert [name for name, *_ in objects(path, content)] == ["猫"]


@pytest.mark.parametrize("before", [b"\n", b"  \r\n", codecs.BOM_UTF8 + b"\n"])
def test_blank_lines_before_the_declaration(path, before):
    content = before + annotation("cat", '<?xml version="1.0"?>').encode()
    assert [name for name, *_ in objects(path, content)] == ["cat"]


@pytest.mark.parametrize("encoding", ["punycode", "zlib", "rot13", "ansi", "x" * 99])
def test_other_encodings_are_refused_in_a_line(path, encoding):
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    with pytest.raises(ValueError, match="not XML: ") as caught:
        objects(path, annotation("cat", head).encode())
    assert len(str(caught.value)) < 300 + len(str(path))


def test_what_is_wrong_with_annotations_that_give_no_class(path):
    (path.parent / "Annotations").mkdir()
    (path.parent / "Annotations" / "a.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"no class name; .*a\.xml: line 1: not XML"):
        read_class_names(path.parent, None)


@pytest.mark.parametrize("value", ["1", " 1 ", "1.0", "2", "TRUE", "Yes", "y", 1, True])
def test_a_flag_that_is_set(value):
    assert is_yes(value)


@pytest.mark.parametrize("value", ["", "0", "0.0", "-1", "nan", "no", "Unspecified", 0])
def test_a_flag_that_is_not_set(value):
    assert not is_yes(value)


# ------------------------------------------------ letters encoded in two ways


def test_one_class_in_two_encodings_of_its_letters(tmp_path):
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for file, name in (("a", COMPOSED), ("b", APART)):
        write_picture(tmp_path / "JPEGImages" / f"{file}.png")
        (tmp_path / "Annotations" / f"{file}.xml").write_text(annotation(name), "utf-8")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    data = VOCLayout(tmp_path, "train")
    assert data.classes == (COMPOSED,)
    assert VOCLayout(tmp_path, "train", [APART]).classes == (COMPOSED,)
    (tmp_path / "classes.txt").write_text(APART + "\n", "utf-8")
    labels = [VOCLayout(tmp_path, "train").label(i)[:, 4] for i in range(2)]
    np.testing.assert_array_equal(labels, [[0], [0]])


def test_one_folder_in_two_encodings_of_its_letters(tmp_path):
    write_picture(tmp_path / "train" / APART / "a.png")
    write_picture(tmp_path / "train" / COMPOSED / "b.png")
    write_picture(tmp_path / "train" / "zoo" / "c.png")
    train = ImageFolder(tmp_path / "train")
    assert (train.classes, train.labels) == ((COMPOSED, "zoo"), [0, 0, 1])
    assert ImageFolder(tmp_path / "train", [APART, "zoo"]).labels == [0, 0, 1]


def test_class_names_that_only_look_different():
    with pytest.raises(ValueError, match="is there twice"):
        ClassChoice([COMPOSED, APART], "error")
