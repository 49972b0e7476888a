"""Downloads public data sets into the folders where recipes look for them.

Sizes and checksums are those that TensorFlow Datasets publishes; torchvision states
the same for VOC and COCO. GitHub packs the archive of BCCD on request. Should it ever
pack it differently, the archive is refused.

Commands list the sets in their help, so what connects and unpacks is imported when it
is used.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, Sequence

from gluon_compress.storage.atomic import file_lock
from gluon_compress.storage.locks import made_folder, sole_writer

VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
COCO = "http://images.cocodataset.org"
FLICKR = "Flickr's images, under its terms"
FOD = """fod is not among them: its authors (github.com/FOD-UNOmaha/FOD-data, MIT)
offer it through Google Drive and state no checksum. Lay it out as DIR/fod in VOC's
layout, as README shows; so too bccd, should GitHub ever pack it in another way."""


@dataclass(frozen=True)
class Archive:
    """A file that holds a data set or a part of it.

    Parameters
    ----------
    url : str
    size : int
        Bytes.
    sha256 : str
    inner : str
        The folder in the archive whose content belongs to the data set; ``""`` is all.
    """

    url: str
    size: int
    sha256: str
    inner: str = ""

    @property
    def name(self) -> str:
        """The last part of the address; a mirror's file has the same name."""
        return self.url.rsplit("/", 1)[1]

    @property
    def checksum(self) -> str:
        """The checksum as ``fetch_large`` takes it."""
        return f"sha256:{self.sha256}"


@dataclass(frozen=True)
class PublicDataset:
    """A data set, its archives, and what it looks like once it is in place.

    Parameters
    ----------
    path : str
        Its folder below the root: what recipes call ``data.root``, or a folder in it.
    terms : str
        Its licence, in a few words.
    archives : tuple of Archive
        No two of them hold the same file.
    files : mapping
        The smallest number of files in each folder; 1 for a file.
    """

    path: str
    terms: str
    archives: tuple[Archive, ...]
    files: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)

    def missing_from(self, folder: Path) -> str:
        """Return what a folder lacks to be the whole data set, in words."""
        counts = {name: _count_files(folder / name) for name in self.files}
        return ", ".join(
            f"{name} ({counts[name]} of {least} files)"
            for name, least in self.files.items()
            if counts[name] < least
        )


PUBLIC_DATASETS = {
    "voc2007": PublicDataset(
        "VOCdevkit/VOC2007",
        FLICKR,
        (
            Archive(
                f"{VOC}/voc2007/VOCtrainval_06-Nov-2007.tar",
                460_032_000,
                "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
                inner="VOCdevkit/VOC2007",
            ),
            Archive(
                f"{VOC}/voc2007/VOCtest_06-Nov-2007.tar",
                451_020_800,
                "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
                inner="VOCdevkit/VOC2007",
            ),
        ),
        {
            "JPEGImages": 9963,
            "Annotations": 9963,
            "ImageSets/Main/trainval.txt": 1,
            "ImageSets/Main/test.txt": 1,
        },
    ),
    "voc2012": PublicDataset(
        "VOCdevkit/VOC2012",
        FLICKR,
        (
            Archive(
                f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                inner="VOCdevkit/VOC2012",
            ),
        ),
        {"JPEGImages": 17125, "Annotations": 17125, "ImageSets/Main/trainval.txt": 1},
    ),
    "coco": PublicDataset(
        "coco",
        f"{FLICKR}; annotations CC BY 4.0",
        (
            Archive(
                f"{COCO}/annotations/annotations_trainval2017.zip",
                252_907_541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            Archive(
                f"{COCO}/zips/val2017.zip",
                815_585_330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                f"{COCO}/zips/train2017.zip",
                19_336_861_798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
        ),
        {
            "train2017": 118287,
            "val2017": 5000,
            "annotations/instances_train2017.json": 1,
            "annotations/instances_val2017.json": 1,
        },
    ),
    "bccd": PublicDataset(
        "bccd",
        "MIT",
        (
            Archive(
                "https://github.com/Shenggan/BCCD_Dataset/archive/v1.0.zip",
                7_875_205,
                "97af5cc16d14d293fcb3c82a8f66e49b0339a8d0abd8e9508e0feeb4911caa1f",
                inner="BCCD_Dataset-1.0/BCCD",
            ),
        ),
        {
            "JPEGImages": 364,
            "Annotations": 364,
            "ImageSets/Main/trainval.txt": 1,
            "ImageSets/Main/test.txt": 1,
        },
    ),
    "imagenette": PublicDataset(
        "imagenette",
        "ImageNet's images, for research only",
        (
            Archive(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                98_948_031,
                "88daccb09b6fce93f45e6c09ddeb269cce705549e6bff322092a2a5a11489863",
                inner="imagenette2-160",
            ),
        ),
        {"train": 9469, "val": 3925},
    ),
}


def datasets_named(names: Sequence[str]) -> dict[str, PublicDataset]:
    """Return the data sets of these names; raise ValueError for an unknown name."""
    for name in names:
        if name not in PUBLIC_DATASETS:
            hint = f"; {FOD}" if name == "fod" else ""
            allowed = ", ".join(PUBLIC_DATASETS)
            raise ValueError(f"set {name!r}; allowed: {allowed}{hint}")
    return {name: PUBLIC_DATASETS[name] for name in names}


def describe_datasets() -> str:
    """Return a line for each data set: its size, its folder and its terms."""
    return "\n".join(
        f"  {name:<11}{dataset.size / 1e9:>6.2f} GB   DIR/{dataset.path:<18} "
        f"{dataset.terms}"
        for name, dataset in PUBLIC_DATASETS.items()
    )


def is_complete(dataset: PublicDataset, root: Path) -> bool:
    """Return whether a data set is there; raise ValueError if only a part of it is."""
    folder = root / dataset.path
    if not os.path.lexists(folder):
        return False
    missing = dataset.missing_from(folder)
    if missing:
        raise ValueError(f"{folder}: exists but lacks {missing}; move it away")
    return True


def download_dataset(
    dataset: PublicDataset,
    root: str | os.PathLike,
    *,
    mirror: str | None = None,
    keep: bool = False,
) -> bool:
    """Download and unpack a data set; return False if it was there already.

    Parameters
    ----------
    dataset : PublicDataset
    root : path
        The folder of all data sets. Processes that download there take turns.
    mirror : str, optional
        The address of a folder with the same archives: ``MIRROR/NAME``.
    keep : bool
        Keep the archives in ``root/downloads``.

    Raises
    ------
    ValueError
        If a part of the data set is there, another process writes a folder that holds
        the root, there is not enough room, or an archive cannot be downloaded or
        unpacked. No part of the data set is written then; archives, complete or not,
        are kept for the next call.
    """
    from gluon_compress.storage.archives import unpack

    root = Path(root)
    if is_complete(dataset, root):
        return False
    folder, downloads = root / dataset.path, root / "downloads"
    with _only_process(root), sole_writer(folder), _cleaned_up(
        folder, downloads
    ) as temporary:
        if is_complete(dataset, root):  # another process was faster
            return False
        _check_room(dataset, downloads, root)
        files = [_download(file, downloads, mirror) for file in dataset.archives]
        unpack([(f, a.inner) for f, a in zip(files, dataset.archives)], temporary)
        missing = dataset.missing_from(temporary)
        if missing:
            raise ValueError(f"{downloads}: the archives lack {missing}")
        os.sync()  # a power cut must not leave the folder without its content
        temporary.rename(folder)
        for file in () if keep else files:
            file.unlink()
    return True


def _download(archive: Archive, folder: Path, mirror: str | None) -> Path:
    from gluon_compress.storage.download import fetch_large, intact

    path = folder / archive.name
    if path.exists():
        if not intact(path, archive.checksum):  # it may be somebody's own file
            raise ValueError(f"{path}: is not the file of {archive.url}; move it away")
        return path
    url = archive.url if mirror is None else f"{mirror.rstrip('/')}/{archive.name}"
    return fetch_large(url, path, archive.checksum, size=archive.size)


def _check_room(dataset: PublicDataset, downloads: Path, root: Path) -> None:
    arrived = sum(
        file.stat().st_size
        for archive in dataset.archives
        for file in downloads.glob(f"{archive.name}*")
    )
    # Images hardly compress: unpacked, they take about as much room as the archives.
    needed, free = 2 * dataset.size - arrived, shutil.disk_usage(root).free
    if needed > free:
        sizes = f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free"
        raise ValueError(f"{root}: not enough room: {sizes}")


def _count_files(path: Path) -> int:
    if path.is_file():
        return 1
    names = (name for _, _, files in os.walk(path) for name in files)
    return sum(not name.startswith(".") for name in names)


@contextmanager
def _only_process(root: Path) -> Iterator[None]:
    lock = root / ".downloading"
    with made_folder(root), file_lock(lock):
        try:
            yield
        finally:
            lock.unlink()


@contextmanager
def _cleaned_up(folder: Path, downloads: Path) -> Iterator[Path]:
    """Yield a temporary path beside a folder to unpack to, and remove it afterwards."""
    temporary = folder.with_name(f".{folder.name}.unpacking")
    if temporary.exists():  # left by a process that was killed
        shutil.rmtree(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # missing or not empty
            downloads.rmdir()
