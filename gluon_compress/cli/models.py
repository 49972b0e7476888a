"""Lists the models of the zoo."""

from __future__ import annotations

import argparse
from typing import Any

from gluon_compress.cli.app import Command

TEXT = """List the models of the zoo: kind, data, metric, size and work.

  %(prog)s
  %(prog)s --pretrained

gluon_compress.get_model(NAME, pretrained=True) returns one with its weights.
"""
HEAD = ("name", "kind", "data", "metric", "MB", "GMACs")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained", action="store_true", help="only those that have weights"
    )


def _list(args: argparse.Namespace) -> None:
    from gluon_compress.markdown import table
    from gluon_compress.zoo import list_models
    from gluon_compress.zoo.index import read

    entries = read()
    names = list_models(pretrained=args.pretrained)
    rows = [_row(entries[name]) for name in names]
    print(table(HEAD, rows, text_columns=HEAD[:4]), end="")


def _row(entry: Any) -> tuple[str, ...]:
    metric = entry.metric
    value = f"{metric.name} {100 * metric.value:.1f}" if metric else "not trained"
    size, work = f"{entry.bytes / 1e6:.2f}", f"{entry.macs / 1e9:.3f}"
    return (entry.name, entry.kind, entry.data, value, size, work)


MODELS = Command(TEXT, _add_options, _list)
