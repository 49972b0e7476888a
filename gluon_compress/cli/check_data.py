"""Checks the data of a detector before any training."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from gluon_compress.cli.app import Command
from gluon_compress.cli.data_source import add_data_source, source_recipe
from gluon_compress.cli.options import RESULT, add_out, keys_of, write_result
from gluon_compress.storage.locks import sole_writer

KEYS = ("splits", "findings")  # of a result
LONGEST = 200  # characters of the first error, which stands in the last line
TEXT = r"""Check the images and annotations of a detector, before any training.

  %(prog)s --images MY_FOLDER --out checked
  %(prog)s --recipe RECIPE --out checked

Reads every image and annotation of all splits once, and prints how many objects there
are of each class and size, which of them no anchor fits, and what is amiss: class names
that are probably misspelt, classes without or with few objects, images that cannot be
read, boxes outside their image or without area, and images that are there twice, above
all in training and test. --out writes a page with pictures. The exit status is 2 if
there are errors, which stop a training or make its figures wrong, and 0 otherwise.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_data_source(parser)
    add_out(parser, *KEYS, required=False, files=("index.html",))


def _run(args: argparse.Namespace) -> None:
    recipe, _ = source_recipe(args)
    check_recipe(recipe, args.out)


def check_recipe(recipe: Any, out: str | None) -> None:
    """Check the data of a recipe, print what was found, and write the page.

    Raises
    ------
    ValueError
        If there are errors.
    """
    from gluon_compress.pipeline import data_check, data_report
    from gluon_compress.validation import shortened

    check = data_check.check_data(recipe)
    print(data_report.check_text(check))
    if out:
        write_result(out, data_check.summary(check))
        title = Path(recipe.data.folder()).name
        print(f"page: {data_report.write_check_page(check, title, out)}")
    if check.errors:
        more = len(check.errors) - 1
        others = f"; and {more} more, listed above" if more else ""
        first = shortened(check.errors[0], LONGEST)
        raise ValueError(f"{recipe.data.folder()}: {first}{others}")


def check_beside(recipe: Any, out: str) -> None:
    """Check the data of a run whose results go to a folder, which has to stay empty.

    The page is written beside it, into ``OUT_check``.

    Raises
    ------
    ValueError
        If there are errors, or that folder holds anything else.
    """
    place = Path(f"{out.rstrip(os.sep)}_check")
    with sole_writer(place):
        result = place / RESULT
        others = place.is_dir() and any(place.iterdir())
        if others and not (result.exists() and set(KEYS) <= keys_of(result)):
            allowed = "no such folder, or one with the page of an earlier check"
            raise ValueError(f"{place}: holds other files; allowed: {allowed}")
        check_recipe(recipe, str(place))


CHECK_DATA = Command(TEXT, _add_options, _run)
