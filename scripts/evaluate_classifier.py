#!/usr/bin/env python
"""Measure a classifier: ``gluon-compress evaluate``."""

from gluon_compress.cli.evaluate import EVALUATE_CLASSIFIER as COMMAND

if __name__ == "__main__":
    COMMAND.main()
