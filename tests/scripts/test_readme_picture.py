"""README's picture of photographs, with a stand-in for scikit-image."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gluon_compress import models, zoo
from gluon_compress.report.pictures import is_drawn
from tools.readme_picture import BEGIN, END, PHOTOGRAPHS

NAME = "ssd_thin_animals"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a zoo with one thin detector, which has learnt nothing."""
    place = tmp_path_factory.mktemp("zoo")
    net = models.build("ssd_300_mobilenet0.25_lite", ("cat", "person"), size=96)
    models.save(net, place / "net", NAME)
    home = place / "model_zoo"
    weights = zoo.release(place / "net", home, NAME, kind="float32")
    figures = {k: models.cost_of(net)[k] for k in ("params", "macs", "bytes")}
    entry = zoo.Entry(
        name=NAME,
        kind="ssd",
        classes=net.classes,
        data="toy",
        size=96,
        licence="MIT",
        command="pytest",
        hours=0.1,
        metric=zoo.Metric(name="mAP", value=0.1, on="toy"),
        weights=weights,
        **figures,
    )
    zoo.add(entry, home)
    return home


@pytest.fixture
def photographs(monkeypatch):
    rng = np.random.RandomState(0)
    images = {
        name: (lambda: rng.randint(0, 255, (60, 90, 3)).astype(np.uint8))
        for name in PHOTOGRAPHS
    }
    data = SimpleNamespace(**images)
    monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(data=data))
    monkeypatch.setitem(sys.modules, "skimage.data", data)


@pytest.fixture
def readme(tmp_path):
    (tmp_path / "docs").mkdir()
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    return path


@pytest.mark.usefixtures("photographs")
def test_picture_and_example_are_written_between_the_marks(call, home, readme):
    given = (NAME, "--zoo", home, "--readme", readme, "--threshold", "0.01")
    for _ in range(2):  # what stands there is replaced
        status, out, error = call("readme_picture", *given)
        assert (status, error) == (0, "")
        assert "chelsea: cat 0." in out or "chelsea: person 0." in out
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert text.count("(docs/photographs.jpg)") == text.count("```python") == 1
    example = text.split("```python\n")[1].split("```")[0]
    compile(example, "example", "exec")
    assert f'gc.get_model("{NAME}", pretrained=True)' in example
    assert "score >= 0.01" in example
    assert is_drawn(readme.parent / "docs" / "photographs.jpg")


@pytest.mark.usefixtures("photographs")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((NAME, "--threshold", "1"), "finds nothing at 1: nothing written"),
        (("none",), f"none: no weights; allowed: {NAME}"),
    ],
)
def test_readme_stays_as_it_is_without_a_picture(call, home, readme, options, named):
    before = readme.read_text()
    given = (*options, "--zoo", home, "--readme", readme)
    status, _, error = call("readme_picture", *given)
    assert status == 2
    assert named in error
    assert readme.read_text() == before
    assert not list((readme.parent / "docs").iterdir())


def test_photographs_need_scikit_image(call, home, readme, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    given = (NAME, "--zoo", home, "--readme", readme)
    status, _, error = call("readme_picture", *given)
    assert status == 2
    assert "pip install scikit-image" in error
