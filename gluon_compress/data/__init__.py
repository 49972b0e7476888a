"""Images and boxes: the layouts people have, augmentation, and batches.

``sets`` and ``folders`` open data sets; ``voc_xml`` and ``images`` cope with what is
in them; ``augment`` changes a sample; ``batches`` puts samples and their targets
together ahead of the training; ``toy`` makes a set up.
"""

from gluon_compress.data.batches import Batches, EarlyBatches
from gluon_compress.data.classes import ClassTargets, Mixup
from gluon_compress.data.classification import ClassificationData
from gluon_compress.data.detection import DetectionData
from gluon_compress.data.detection_transforms import (
    detection_train_sample,
    detection_val_sample,
)
from gluon_compress.data.folders import DATA_FOLDER
from gluon_compress.data.image_folder import ImageFolder
from gluon_compress.data.imagenet_transforms import crop_train_sample, crop_val_sample
from gluon_compress.data.normalization import MEAN, STD, normalize
from gluon_compress.data.preprocess import Placement, Preprocess, as_rgb
from gluon_compress.data.recordio import RecordBatches, Records, sample
from gluon_compress.data.sets import (
    Detections,
    VOCLayout,
    coco_gluoncv,
    counted,
    voc_gluoncv,
)
from gluon_compress.data.toy import make_toy
from gluon_compress.data.voc_xml import class_names

__all__ = [
    "DATA_FOLDER",
    "MEAN",
    "STD",
    "Batches",
    "ClassTargets",
    "ClassificationData",
    "DetectionData",
    "Detections",
    "EarlyBatches",
    "ImageFolder",
    "Mixup",
    "Placement",
    "Preprocess",
    "RecordBatches",
    "Records",
    "STD",
    "VOCLayout",
    "as_rgb",
    "class_names",
    "coco_gluoncv",
    "counted",
    "crop_train_sample",
    "crop_val_sample",
    "make_toy",
    "normalize",
    "sample",
    "detection_train_sample",
    "detection_val_sample",
    "voc_gluoncv",
]
