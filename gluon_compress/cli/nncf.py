"""The command that makes a recipe's compression of files of other tools."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict

from gluon_compress.cli.app import Command

TEXT = r"""Make a recipe's compression of a configuration file of NNCF 2.x.

  %(prog)s --from-nncf nncf.json
  %(prog)s --from-nncf nncf.json --into recipe.json --out new.json \
    --scope 'ResNet/Conv2d[conv1]=conv0' --scope '{re}.*fc.*=dense*'

Prints the key "compression" of a recipe, and "distillation" if there is a teacher. With
--into, they take the place of these keys in a recipe, which is checked. Every key of
the file that is not known or cannot be honoured is named on standard error. Scopes name
layers in PyTorch: --scope says which layers of the net here are meant.
"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-nncf", required=True, metavar="FILE", help="NNCF's JSON file"
    )
    parser.add_argument("--into", metavar="RECIPE", help="recipe to change")
    parser.add_argument("--out", metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--scope",
        action="append",
        default=[],
        metavar="SCOPE=PATTERN",
        help="a scope of the file, and the layers that it means",
    )


def _run(args: argparse.Namespace) -> None:
    from gluon_compress.compression.controller import Compression
    from gluon_compress.recipe import parse_recipe
    from gluon_compress.recipe.nncf import converted
    from gluon_compress.storage.atomic import read_json, write_json
    from gluon_compress.validation import parse, wrong

    scopes: Dict[str, str] = {}
    for text in args.scope:
        scope, separator, pattern = text.rpartition("=")
        if not (separator and scope and pattern):
            raise wrong("--scope", text, "SCOPE=PATTERN")
        scopes[scope] = pattern
    path = Path(args.from_nncf)
    stored = read_json(path)
    try:
        made = converted(stored, scopes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for key, reason in made.problems:
        print(f"{path}: {key}: {reason}", file=sys.stderr)
    content: Dict[str, Any] = {"compression": list(made.rows)}
    parse(Compression, content, path)
    if made.distillation is not None:
        content["distillation"] = made.distillation
    if args.into:
        recipe = read_json(Path(args.into))
        if not isinstance(recipe, dict):
            raise wrong(args.into, recipe, "a recipe, an object {...}")
        content = {**recipe, **content}
        parse_recipe(content, args.into)
    if args.out:
        write_json(args.out, content)
        print(args.out)
    else:
        print(json.dumps(content, indent=2))


RECIPE = Command(TEXT, _add_options, _run)
