"""What is data in a folder, and which file a line of a list means."""

from __future__ import annotations

import re
import unicodedata

import pytest

from gluon_compress.data.listed_files import (
    FileIndex,
    files_in,
    find_listed,
    folders_in,
    read_lines,
)

EXTENSIONS = (".jpg", ".png")
CLUTTER = [".DS_Store", "._a.jpg", "Thumbs.db", "desktop.ini", ".hidden.jpg"]


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes files in a folder and indexes it."""
    root = tmp_path / "JPEGImages"
    root.mkdir()

    def make(*names: str) -> FileIndex:
        for name in names:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
        return FileIndex(root, EXTENSIONS)

    return make


def test_clutter_is_no_data(folder):
    index = folder("a.jpg", *CLUTTER, "@eaDir/a.jpg", ".thumbs/a.jpg", "b.jpg/x.txt")
    assert [file.name for file in files_in(index.folder)] == ["a.jpg"]
    assert [sub.name for sub in folders_in(index.folder)] == ["b.jpg"]
    assert [file.name for file in index] == ["a.jpg"]


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("a", "a.JPG"),
        ("a.jpg", "a.JPG"),
        ("a 1", "a.JPG"),
        ("a.jpg -1", "a.JPG"),
        ("'a' 0", "a.JPG"),
        ("JPEGImages/a.jpg Annotations/a.xml", "a.JPG"),
        ("JPEGImages/a.jpg\tAnnotations/a.xml\t1", "a.JPG"),
        (r"C:\voc\JPEGImages\a.jpg", "a.JPG"),
        ("/of/another/machine/JPEGImages/a.jpg", "a.JPG"),
        ("./a", "a.JPG"),
        ("b c", "b c.png"),
        ('"b c"', "b c.png"),
        ('"b c" 1', "b c.png"),
        ("b c.png 1", "b c.png"),
        ("cam/1", "cam/1.jpg"),
        (r"cam\1.jpg", "cam/1.jpg"),
        ("JPEGImages/cam/1.jpg", "cam/1.jpg"),
        ("x 1", "x 1.jpg"),  # before the flag
        ("two.jpg", "two.jpg"),
        ("two.png", "two.png"),
        ("d.jpg", "d.jpg.png"),  # an exact stem comes first
        ("v1.2", "v1.2.jpg"),
    ],
)
def test_lines_as_tools_write_them(folder, line, file):
    index = folder(
        *("a.JPG", "b c.png", "cam/1.jpg", "x 1.jpg", "x.jpg", "two.jpg", "two.png"),
        *("d.jpg.png", "d.jpg", "v1.2.jpg"),
    )
    name, path = find_listed(line, index)
    assert path == index.folder / file
    assert name == file.rpartition(".")[0]


def test_path_through_a_link_is_in_the_folder(folder, tmp_path):
    index = folder("a.jpg")
    (tmp_path / "link").symlink_to(index.folder)
    assert find_listed(f"{tmp_path}/link/a.jpg", index)[1].name == "a.jpg"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_letters_can_be_encoded_in_two_ways(folder, on_disk, listed):
    index = folder(unicodedata.normalize(on_disk, "café") + ".jpg")
    name, file = find_listed(unicodedata.normalize(listed, "café.jpg"), index)
    assert file.exists()
    assert name == unicodedata.normalize("NFC", "café")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("two", "two.jpg and two.png"),
        ("A", "'a'"),
        ("w", r"w\.webp.*\.jpg"),
        ("w.webp", r"w\.webp.*\.jpg"),
        ("cam/a", "'a'"),
        ("deep", "'sub/deep'"),
        ("deep.jpg", "'sub/deep'"),
        ("a 7", "'a'.*1, 0, -1"),
        ("a.jpg,a.xml", r"'a\.jpg'"),
    ],
)
def test_a_file_that_exists_is_never_missing(folder, line, message):
    index = folder("a.jpg", "two.jpg", "two.png", "w.webp", "sub/deep.jpg")
    with pytest.raises(ValueError, match=message) as info:
        find_listed(line, index)
    assert "no such" not in str(info.value)


def test_path_outside_of_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "b.jpg").touch()
    with pytest.raises(ValueError, match=r"b\.jpg: not in .*JPEGImages"):
        find_listed(str(tmp_path / "b.jpg"), folder("a.jpg"))


def test_missing_file_is_named(folder):
    with pytest.raises(ValueError, match=r"JPEGImages/b c: no such file"):
        find_listed("b c 1", folder("a.jpg"))


def test_link_to_a_folder_above_is_followed_once(folder):
    index = folder("cam/1.jpg")
    (index.folder / "cam" / "up").symlink_to(index.folder)
    assert [file.name for file in FileIndex(index.folder, EXTENSIONS)] == ["1.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_the_encodings_of_windows(tmp_path, encoding):
    path = tmp_path / "train.txt"
    path.write_bytes("é\r\n\r\n b c \r\nd".encode(encoding))
    assert read_lines(path) == ["é", "b c", "d"]


def test_list_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("é".encode("cp1252"))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: not UTF-8"):
        read_lines(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_list_in_unmarked_utf_16_is_named(tmp_path, encoding):
    path = tmp_path / "train.txt"
    path.write_bytes("a\nb\n".encode(encoding))
    with pytest.raises(ValueError, match="has zero bytes; allowed: UTF-8"):
        read_lines(path)


@pytest.mark.parametrize("line", ["a%20b", "photos/JPEGImages/a%20b.jpg", "50%25"])
def test_names_as_in_addresses(folder, line):
    assert find_listed(line, folder("a b.jpg", "50%.jpg"))[1].exists()


def test_a_name_with_a_percent_sign_is_itself(folder):
    index = folder("a%20b.jpg", "a b.jpg")
    assert find_listed("a%20b", index)[1].name == "a%20b.jpg"


def test_a_link_to_nothing_is_a_file_that_cannot_be_read(folder):
    index = folder("a.jpg")
    (index.folder / "b.jpg").symlink_to(index.folder / "gone.jpg")
    (index.folder / "sub").symlink_to(index.folder)
    assert [f.name for f in files_in(index.folder)] == ["a.jpg", "b.jpg"]
    assert find_listed("b", FileIndex(index.folder, EXTENSIONS))[0] == "b"


def test_lists_that_were_put_together(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(2 * "a b\n\u200b c\u200e \n".encode("utf-8-sig"))
    assert read_lines(path) == ["a b", "c"] * 2


def test_a_slash_at_the_end_changes_nothing(folder):
    assert find_listed("sub\\a/", folder("sub/a.jpg"))[1].name == "a.jpg"


def test_a_message_on_a_long_line_is_short(folder):
    with pytest.raises(ValueError, match="no such file") as info:
        find_listed("x" * 100_000, folder("a.jpg"))
    assert len(str(info.value)) < 300 + len(str(info.value).split("JPEGImages")[0])
