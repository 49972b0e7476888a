"""One detector and one classifier, deployed once in every format there is."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from gluon_compress import models
from gluon_compress.deployment import deploy
from gluon_compress.models.family import family_of
from images import picture
from runtimes import EVERY, SIZE, classifier, detector


@pytest.fixture(scope="session")
def net():
    """Return a tiny detector of an input that is not square."""
    return detector(size=SIZE)


@pytest.fixture(scope="session")
def preprocess(net):
    """Return what goes before the detector."""
    return family_of(net).preprocess(net)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    """Return four image files."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        image = cv2.resize(picture(seed % 3, seed), (90 + 40 * seed, 120))
        cv2.imwrite(str(folder / f"{seed}.png"), image)
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def inputs(preprocess, photos):
    """Return these images as the detector takes them."""
    return preprocess.read(photos)[0]


@pytest.fixture(scope="session")
def deployed(net, inputs, tmp_path_factory) -> Path:
    """Return the detector in every format."""
    folder = tmp_path_factory.mktemp("deployed") / "edge"
    deploy(net, folder, "tiny", formats=EVERY, images=inputs)
    return folder


@pytest.fixture(scope="session")
def deployed_classifier(photos, tmp_path_factory) -> Path:
    """Return a classifier in every format, of an input that is not square."""
    net = classifier()
    folder = tmp_path_factory.mktemp("classifier") / "edge"
    images, _ = family_of(net).preprocess(net).read(photos)
    deploy(net, folder, "tiny", formats=EVERY, images=images)
    models.save(net, folder.parent / "model", "tiny")
    return folder
