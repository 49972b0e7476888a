"""Image files that arguments name."""

from __future__ import annotations

import pytest

from gluon_compress.cli.image_files import others_in, pictures


def test_pictures_of_a_folder_are_its_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "._a.jpg", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    targets = pictures([tmp_path], tmp_path / "out", (".jpg", ".png"))
    names = [(image.name, target.name) for image, target in targets.items()]
    assert names == [("a.jpg", "a.jpg"), ("b.PNG", "b.PNG")]
    assert others_in([tmp_path], (".jpg", ".png")) == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(
    ("paths", "out", "named"),
    [
        (["none.jpg"], "out", r"none\.jpg"),
        (["empty"], "out", r"empty: .*\.jpg"),
        (["notes.txt"], "out", r"notes\.txt: .*\.jpg"),
        (["a.jpg"], ".", r"a\.jpg: .* replace"),
        (["a.jpg", "more"], "out", r"more/a\.jpg: .* replace"),
    ],
)
def test_pictures_never_replace_anything(tmp_path, paths, out, named):
    (tmp_path / "empty").mkdir()
    (tmp_path / "more").mkdir()
    for name in ("a.jpg", "notes.txt", "more/a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=named):
        pictures([tmp_path / path for path in paths], tmp_path / out, (".jpg",))
