#!/usr/bin/env python
"""Download public data sets to where recipes look for them with --data DIR.

  scripts/download_data.py voc2007 voc2012 --root DIR
  scripts/download_data.py coco --root DIR --mirror https://example.com/files --keep

A download that broke off goes on with the next call. Archives are checked by their
sha256, lie in DIR/downloads until their set is whole, and are removed then. Unpacking
needs about as much room again. A set that is in place is left alone, and so is one that
is in place in part: that is an error.
"""

from __future__ import annotations

from pathlib import Path

from common import main, parser


def arguments():
    """Return the parser of this script."""
    from gluon_compress.data.public import FOD, describe_datasets

    made = parser(f"{__doc__}\nThe sets:\n\n{describe_datasets()}\n\n{FOD}")
    made.add_argument("sets", nargs="+", metavar="SET", help="any of those above")
    made.add_argument("--root", required=True, metavar="DIR", help="for all sets")
    made.add_argument(
        "--mirror",
        metavar="URL",
        help="take the archives from URL/NAME, of kind http, https or file; the NAMEs "
        "and checksums are the same",
    )
    made.add_argument("--keep", action="store_true", help="keep DIR/downloads")
    return made


def run(args) -> None:
    """Refuse what cannot go well, then put one set after the other in its place."""
    from gluon_compress.data import public

    root, sets = Path(args.root).expanduser(), public.public_datasets(args.sets)
    if root.exists() and not root.is_dir():
        raise ValueError(f"--root {root}: is no folder")
    for dataset in sets.values():
        public.is_complete(dataset, root)
    for name, dataset in sets.items():
        options = {"mirror": args.mirror, "keep": args.keep}
        new = public.download_dataset(dataset, root, **options)
        was = "" if new else ", complete already: nothing to do"
        print(f"{name}: {root / dataset.place}{was}", flush=True)


if __name__ == "__main__":
    main(run, arguments())
