#!/usr/bin/env python
"""Compare runtimes: ``gluon-compress evaluate --deployed``."""

from gluon_compress.cli.evaluate import EVALUATE_RUNTIMES as COMMAND

if __name__ == "__main__":
    COMMAND.main()
