"""Data sets, augmentation, preprocessing, and batches.

``detection`` and ``classification`` open the data of a recipe. ``voc``, ``pascal_voc``,
``coco``, ``image_folder`` and ``recordio`` are the layouts; ``voc_xml`` and ``images``
read their files, and ``broken`` says what becomes of files that cannot be read.
``detection_transforms`` and ``imagenet_transforms`` augment samples, ``batches``
prepares batches in threads, and ``preprocess`` turns any image into a net's input.
``toy`` draws a small detection data set.
"""

from __future__ import annotations

from gluon_compress.data.batches import Batches, ProgressiveBatches
from gluon_compress.data.broken import Broken, BrokenImage, refuse_broken
from gluon_compress.data.class_targets import ClassTargets, Mixup
from gluon_compress.data.classification import ClassificationData
from gluon_compress.data.coco import COCOFormat, coco_gluoncv
from gluon_compress.data.composing import Composer, DetectionAugmentation
from gluon_compress.data.detection import DetectionData
from gluon_compress.data.detection_dataset import AnnotatedImage, DetectionDataset
from gluon_compress.data.detection_transforms import (
    detection_train_sample,
    detection_val_sample,
)
from gluon_compress.data.folders import DATA_FOLDER
from gluon_compress.data.image_folder import ImageFolder
from gluon_compress.data.imagenet_transforms import crop_train_sample, crop_val_sample
from gluon_compress.data.normalization import MEAN, STD, normalize
from gluon_compress.data.objects import Objects, check_present, objects_in
from gluon_compress.data.pascal_voc import voc_gluoncv
from gluon_compress.data.preprocess import Placement, Preprocess, as_rgb
from gluon_compress.data.recordio import Records
from gluon_compress.data.subset import (
    absent_classes,
    count_images,
    describe_counts,
    draw_subset,
    most_objects,
)
from gluon_compress.data.toy import make_toy
from gluon_compress.data.voc import VOCLayout
from gluon_compress.data.voc_xml import read_class_names

__all__ = [
    "AnnotatedImage",
    "Broken",
    "BrokenImage",
    "COCOFormat",
    "DATA_FOLDER",
    "MEAN",
    "STD",
    "Batches",
    "ClassTargets",
    "Composer",
    "ClassificationData",
    "DetectionAugmentation",
    "DetectionData",
    "DetectionDataset",
    "ProgressiveBatches",
    "ImageFolder",
    "Mixup",
    "Objects",
    "Placement",
    "Preprocess",
    "Records",
    "VOCLayout",
    "as_rgb",
    "check_present",
    "read_class_names",
    "coco_gluoncv",
    "count_images",
    "describe_counts",
    "crop_train_sample",
    "crop_val_sample",
    "make_toy",
    "most_objects",
    "normalize",
    "objects_in",
    "absent_classes",
    "draw_subset",
    "refuse_broken",
    "detection_train_sample",
    "detection_val_sample",
    "voc_gluoncv",
]
