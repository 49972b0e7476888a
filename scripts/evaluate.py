#!/usr/bin/env python
"""Measure a model on labelled images: ``gluon-compress evaluate``."""

from gluon_compress.cli.evaluate import EVALUATE as COMMAND

if __name__ == "__main__":
    COMMAND.main()
