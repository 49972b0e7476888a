"""Where images and weights come from that nets of the zoo have learnt on."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Iterable, Mapping

# By what a trunk's folder is called.
TRUNKS = {
    "mobilenet1.0_imagenet": (
        "The trunk learnt on ImageNet (ILSVRC 2012, 1,000 classes). It is made from "
        "`mobilenet_v1_1.0_224_quant_embedding_extractor.tflite` of google-coral/"
        "test_data (Apache-2.0): 8-bit weights as float32, BatchNorm rebuilt from 192 "
        "images of Imagenette."
    ),
    "imagenette": (
        "The trunk learnt on Imagenette: 9,469 images of ten classes of ImageNet, "
        "at 96 pixels."
    ),
}
# By what a data set's folder is called.
IMAGES = {
    "voc12_animals": (
        "Photographs of Pascal VOC 2012 (Everingham et al.) from Flickr, for research "
        "under Flickr's terms: images from mateusrafael4/"
        "Atividade_programacao_pose_estimation, boxes from Edwardwaw/VOC-tools, flags "
        "of difficult objects from shevious/keras-yolo4. They are no part of this "
        "project."
    ),
    "bccd": "Microscopy of blood cells: Shenggan/BCCD_Dataset, MIT.",
    "fod": "Debris on runways: FOD-UNOmaha/FOD-data, MIT.",
}


def trunks_of(recipe: Mapping[str, Any]) -> list[str]:
    """Return the folders of the trunks that a recipe builds its nets on."""
    nets = [recipe.get(part) or {} for part in ("model", "student")]
    return [net["trunk"] for net in nets if net.get("trunk")]


def origins(paths: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Return what is known of some folders, each once; others are named as they are.

    Parameters
    ----------
    paths : iterable of str
    known : mapping
        ``TRUNKS`` or ``IMAGES``. The first key that a folder's name contains counts.
    """
    texts = []
    for path in paths:
        found = [text for key, text in known.items() if key in path]
        name = PurePosixPath(path).name
        texts.append(found[0] if found else f"`{name}`: see its own terms.")
    return list(dict.fromkeys(texts))
