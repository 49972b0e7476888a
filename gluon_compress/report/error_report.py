"""The part of a run's report that says what the nets get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from gluon_compress.data import Placement, Preprocess
from gluon_compress.detection_errors import (
    KINDS,
    ImageDetections,
    Judged,
    confusion,
    gains,
    judge,
    load_detections,
    precision_recall,
)
from gluon_compress.report.boxes import Boxes
from gluon_compress.report.error_charts import (
    confusion_chart,
    error_chart,
    precision_recall_chart,
)
from gluon_compress.report.page import Picture, Table
from gluon_compress.report.pictures import Tile, gallery

WORST, LOST = 20, 12  # images that are drawn
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}


class ErrorReport:
    """The errors of nets on the same test images.

    Parameters
    ----------
    files : mapping
        By name of the net, what ``save_detections`` wrote.
    classes : sequence of str
    metric : str
        ``voc07`` or ``voc10``.
    iou : float
        Overlap from which a detection counts.
    threshold : float
        Score from which detections are counted and drawn.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        classes: Sequence[str],
        *,
        metric: str = "voc07",
        iou: float = 0.5,
        threshold: float = 0.4,
    ) -> None:
        self.classes, self.metric = tuple(classes), metric
        self.iou, self.threshold = iou, threshold
        self.images: Dict[str, List[ImageDetections]] = {
            name: load_detections(path) for name, path in files.items()
        }
        for name, images in self.images.items():
            for image in images:
                ids = [*image.ids, *image.label[:, 4]]
                if ids and not 0 <= min(ids) <= max(ids) < len(self.classes):
                    raise ValueError(
                        f"{files[name]}: holds class {max(ids):g}; there are "
                        f"{len(self.classes)}"
                    )
        self.all: Dict[str, Judged] = {
            name: judge(images, iou=iou) for name, images in self.images.items()
        }
        self.seen = {name: one.at(threshold) for name, one in self.all.items()}

    @property
    def ends(self) -> Tuple[str, str]:
        """Names of the first and the last net, the last twice if they do not compare.

        They do not if they saw other images, some of which may have been left out.
        """
        names = list(self.images)
        first, last = (
            [i.number for i in self.images[n]] for n in (names[0], names[-1])
        )
        return (names[0] if first == last else names[-1]), names[-1]

    def tables(self) -> Iterator[Table]:
        """Yield kinds of errors, what is found by size, and what compression lost."""
        count = len(self.classes)
        gained = {n: gains(j, count, metric=self.metric) for n, j in self.all.items()}
        counted = {name: one.counts() for name, one in self.seen.items()}
        head = [
            "error",
            *(f"{n}, {what}" for n in gained for what in ("points", "count")),
        ]
        body = [
            [
                f"{kind}: {text}",
                *(
                    cell
                    for n in gained
                    for cell in (f"{100 * gained[n][kind]:.1f}", str(counted[n][kind]))
                ),
            ]
            for kind, text in KINDS.items()
        ]
        yield Table(
            "Kinds of errors",
            [head, *body],
            "Points: of mAP that would be gained without these errors, all else equal. "
            f"Count: with a score from {self.threshold:g}. The kinds are those of TIDE "
            "(Bolya et al. 2020).",
        )
        yield self._by_size()
        first, last = self.ends
        if first != last:
            yield self._lost_by_class(first, last)

    def _by_size(self) -> Table:
        rows = []
        for name, (low, high) in AREAS.items():
            cells = [name]
            for i, judged in enumerate(self.seen.values()):
                chosen = judged.counted & (judged.areas >= low) & (judged.areas < high)
                found = int((chosen & ~np.isnan(judged.found)).sum())
                objects = int(chosen.sum())
                cells += [str(objects)] if i == 0 else []
                share = f" ({found / objects:.0%})" if objects else ""
                cells.append(f"{found}{share}")
            rows.append(cells)
        return Table(
            "Objects found, by size",
            [["size", "objects", *(f"found by {name}" for name in self.seen)], *rows],
            f"With a score from {self.threshold:g}. Small objects have less than 32 x "
            "32 pixels in the net's input, large ones 96 x 96 at least.",
        )

    def _lost_by_class(self, first: str, last: str) -> Table:
        before, after = self._found(first), self._found(last)
        objects = self.seen[last]
        rows = []
        for number, name in enumerate((*self.classes, "all")):
            chosen = objects.counted.copy()
            if number < len(self.classes):
                chosen &= objects.object_ids == number
            sums = (before & after, before & ~after, ~before & after, ~before & ~after)
            rows.append([name, *(str(int((chosen & one).sum())) for one in sums)])
        return Table(
            f"What {last} lost of what {first} finds",
            [["class", "both find", "lost", "gained", "neither finds"], *rows],
            f"Objects, found with a score from {self.threshold:g}.",
            total=True,
        )

    def _found(self, name: str) -> np.ndarray:
        return ~np.isnan(self.seen[name].found)

    def pictures(
        self, test: Any, preprocess: Preprocess, folder: Path
    ) -> Iterator[Picture]:
        """Draw into a folder, and yield its pictures.

        Parameters
        ----------
        test
            The data set of the detections: ``[i]`` -> (image, label).
        preprocess : Preprocess
            Of the last net.
        folder : Path
        """
        nets = " and ".join(self.images)
        curves = {
            net: {n: precision_recall(judged, i) for i, n in enumerate(self.classes)}
            for net, judged in self.all.items()
        }
        precision_recall_chart(curves, folder / "precision_recall.png")
        yield Picture(
            "precision_recall.png",
            "Precision and recall",
            f"Of each class at an IoU of {self.iou:g}. From left to right, the score "
            "that a detection needs falls.",
            f"Curves of precision over recall of each class, of {nets}",
        )
        count = len(self.classes)
        kinds = {n: gains(j, count, metric=self.metric) for n, j in self.all.items()}
        error_chart(kinds, folder / "errors.png")
        yield Picture(
            "errors.png",
            "What the errors cost",
            "The longer a bar, the more mAP this kind of errors costs.",
            f"Bars of the mAP that each kind of errors costs {nets}",
        )
        tables = {n: confusion(judged, count) for n, judged in self.seen.items()}
        confusion_chart(tables, self.classes, folder / "confusion.png")
        yield Picture(
            "confusion.png",
            "Confusion of classes",
            f"Each row tells what the objects of a class are detected as, with a score "
            f"from {self.threshold:g}; the last column counts those that are not, the "
            "last row detections where there is no such object. Colours are shares of "
            "the row.",
            f"Tables of true and detected classes of {nets}",
        )
        yield from self._worst(test, preprocess, folder)
        yield from self._lost(test, preprocess, folder)

    def _worst(
        self, test: Any, preprocess: Preprocess, folder: Path
    ) -> Iterator[Picture]:
        name = self.ends[1]
        images = self.images[name]
        errors = self.seen[name].errors_of_images(len(images))
        worst = np.argsort(-errors, kind="stable")[:WORST]
        tiles = []
        for number in map(int, worst[errors[worst] > 0]):
            picture = test[images[number].number][0]
            place = preprocess.view(picture)[1]
            lost, wrong = self._errors_in(name, number, place)
            text = f"image {images[number].number + 1}"
            tiles += [
                Tile(picture, lost, f"{text}: {len(lost)} not found"),
                Tile(picture, wrong, f"{text}: {len(wrong)} wrong"),
            ]
        if tiles:
            gallery(tiles, self.classes, folder / "worst.png", panel=300)
            yield Picture(
                "worst.png",
                f"The worst test images of the {name} net",
                f"The {len(tiles) // 2} images with most errors. On the left of each "
                "pair are the objects that were not found, on the right the wrong "
                f"detections, both with a score from {self.threshold:g}. What was "
                "found is not drawn.",
                f"Pairs of pictures: objects that the {name} net did not find, and its "
                "wrong detections",
            )

    def _errors_in(
        self, name: str, number: int, place: Placement
    ) -> Tuple[Boxes, Boxes]:
        """Return the objects of an image that were not found, and wrong detections."""
        image, judged = self.images[name][number], self.seen[name]
        of_image = judged.object_image == number
        lost = (judged.counted & ~self._found(name))[of_image]
        label = _in_image(image.label[lost], place)
        rows = (judged.image == number) & np.isin(judged.kind, list(KINDS))
        wrong = Boxes(
            place.to_image(judged.corner_boxes[rows]),
            judged.ids[rows],
            judged.scores[rows],
        )
        return Boxes.of_label(label), wrong

    def _lost(
        self, test: Any, preprocess: Preprocess, folder: Path
    ) -> Iterator[Picture]:
        first, last = self.ends
        if first == last:
            return
        objects = self.seen[last]
        lost = objects.counted & self._found(first) & ~self._found(last)
        per_image = np.bincount(
            objects.object_image[lost], minlength=len(self.images[last])
        )
        order = np.argsort(-per_image, kind="stable")[:LOST]
        tiles = []
        for number in map(int, order[per_image[order] > 0]):
            rows = lost[objects.object_image == number]
            image = self.images[last][number]
            picture = test[image.number][0]
            label = _in_image(image.label[rows], preprocess.view(picture)[1])
            text = f"image {image.number + 1}: {per_image[number]} lost"
            tiles.append(Tile(picture, Boxes.of_label(label), text))
        if tiles:
            gallery(tiles, self.classes, folder / "lost.png")
            yield Picture(
                "lost.png",
                f"Objects that {last} lost",
                f"Objects that {first} finds with a score from {self.threshold:g} and "
                f"{last} does not, {int(lost.sum())} in all: the {len(tiles)} images "
                "with most of them. Only these objects are drawn.",
                f"Images with boxes around the objects that {last} lost",
            )


def _in_image(label: np.ndarray, place: Placement) -> np.ndarray:
    """Return a label in pixels of the image instead of the net's input."""
    return np.hstack([place.to_image(label[:, :4]), label[:, 4:]])
