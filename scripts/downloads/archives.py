"""The archives that sets are packed in, with what they must be.

Sizes and sums are those that TensorFlow Datasets publishes. Torchvision states the same
sums for VOC and COCO. GitHub packs BCCD when it is asked to: should it ever do so in
another way, the archive is refused.
"""

from __future__ import annotations

from downloads.dataset import Archive

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"

VOC2007 = (
    Archive(
        f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
        460_032_000,
        "sha256:7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
        inner="VOCdevkit/VOC2007",
    ),
    Archive(
        f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar",
        451_020_800,
        "sha256:6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
        inner="VOCdevkit/VOC2007",
    ),
)
VOC2012 = (
    Archive(
        f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
        1_999_639_040,
        "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        inner="VOCdevkit/VOC2012",
    ),
)
COCO2017 = (
    Archive(
        f"{COCO}/annotations/annotations_trainval2017.zip",
        252_907_541,
        "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    Archive(
        f"{COCO}/zips/val2017.zip",
        815_585_330,
        "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    Archive(
        f"{COCO}/zips/train2017.zip",
        19_336_861_798,
        "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
)
BCCD = (
    Archive(
        "https://github.com/Shenggan/BCCD_Dataset/archive/v1.0.zip",
        7_875_205,
        "sha256:97af5cc16d14d293fcb3c82a8f66e49b0339a8d0abd8e9508e0feeb4911caa1f",
        inner="BCCD_Dataset-1.0/BCCD",
    ),
)
IMAGENETTE = (
    Archive(
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
        98_948_031,
        "sha256:88daccb09b6fce93f45e6c09ddeb269cce705549e6bff322092a2a5a11489863",
        inner="imagenette2-160",
    ),
)
