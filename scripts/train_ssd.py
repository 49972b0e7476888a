#!/usr/bin/env python
"""Train a detector: ``gluon-compress train``."""

from gluon_compress.cli.recipes import TRAIN as COMMAND

if __name__ == "__main__":
    COMMAND.main()
