"""Downloads public data sets to where recipes look for them."""

from __future__ import annotations

import argparse
from pathlib import Path

from gluon_compress.cli.app import Command
from gluon_compress.storage import public_datasets
from gluon_compress.storage.public_datasets import PUBLIC_DATASETS

TEXT = """Download public data sets to where recipes look for them with --data DIR.

  %(prog)s --list
  %(prog)s voc2007 voc2012 --root DIR
  %(prog)s coco --root DIR --mirror https://example.com/files --keep

A download that broke off continues with the next call. Archives are checked by their
sha256, stay in DIR/downloads until their set is complete, and are removed then.
Unpacking needs about as much room again. A set that is in place is left alone; one that
is there in part is an error.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    sets = f"any of {', '.join(PUBLIC_DATASETS)}"
    parser.add_argument("sets", nargs="*", metavar="SET", help=sets)
    parser.add_argument("--root", metavar="DIR", help="for all sets")
    parser.add_argument(
        "--list", action="store_true", help="sizes, folders and terms of the sets"
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="take the archives from URL/NAME, of kind http, https or file; the NAMEs "
        "and checksums are the same",
    )
    parser.add_argument("--keep", action="store_true", help="keep DIR/downloads")


def _download(args: argparse.Namespace) -> None:
    """Refuse what cannot succeed, then put one set after the other in its place."""
    if args.list:
        print(f"{public_datasets.describe_datasets()}\n\n{public_datasets.FOD}")
        return
    if not args.sets or not args.root:
        raise ValueError("SET and --root are required, or --list")
    root = Path(args.root).expanduser()
    sets = public_datasets.datasets_named(args.sets)
    if root.exists() and not root.is_dir():
        raise ValueError(f"--root {root}: is not a folder")
    for dataset in sets.values():
        public_datasets.is_complete(dataset, root)
    for name, dataset in sets.items():
        is_new = public_datasets.download_dataset(
            dataset, root, mirror=args.mirror, keep=args.keep
        )
        state = "" if is_new else ", complete already: nothing to do"
        print(f"{name}: {root / dataset.path}{state}", flush=True)


DOWNLOAD = Command(TEXT, _add_options, _download)
