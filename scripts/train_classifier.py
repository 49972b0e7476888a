#!/usr/bin/env python
"""Train a classifier: ``gluon-compress train``."""

from gluon_compress.cli.recipes import TRAIN_CLASSIFIER as COMMAND

if __name__ == "__main__":
    COMMAND.main()
