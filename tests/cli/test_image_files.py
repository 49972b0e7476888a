"""Image files that arguments name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gluon_compress.cli.image_files import others_in, pictures
from gluon_compress.report import save_image


def test_pictures_of_a_folder_are_its_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "._a.jpg", "Thumbs.db"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    targets = pictures([tmp_path], tmp_path / "out", (".jpg", ".png"))
    names = [(image.name, target.name) for image, target in targets.items()]
    assert names == [("a.jpg", "a.jpg"), ("b.PNG", "b.PNG")]
    assert others_in([tmp_path], (".jpg", ".png")) == [tmp_path / "notes.txt"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_only_drawn_pictures_are_replaced(tmp_path, name):
    paths, out = [tmp_path / name], tmp_path / "out"
    paths[0].touch()
    save_image(np.zeros((4, 4, 3), np.uint8), out / name)
    assert pictures(paths, out, (".jpg", ".png")) == {paths[0]: out / name}
    Image.new("RGB", (4, 4)).save(out / name)
    with pytest.raises(ValueError, match=f"^{out / name}: is another file"):
        pictures(paths, out, (".jpg", ".png"))


@pytest.mark.parametrize(
    ("paths", "out", "named"),
    [
        (["none.jpg"], "out", r"none\.jpg"),
        (["empty"], "out", r"empty: .*\.jpg"),
        (["notes.txt"], "out", r"notes\.txt: .*\.jpg"),
        (["a.jpg"], ".", r"a\.jpg: .* replace"),
        (["a.jpg"], "mine", r"mine/a\.jpg: is another file"),
        (["a.jpg", "more"], "out", r"more/a\.jpg: .* replace"),
    ],
)
def test_pictures_never_replace_anything(tmp_path, paths, out, named):
    (tmp_path / "empty").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "mine").mkdir()
    for name in ("a.jpg", "notes.txt", "more/a.jpg", "mine/a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=named):
        pictures([tmp_path / path for path in paths], tmp_path / out, (".jpg",))
