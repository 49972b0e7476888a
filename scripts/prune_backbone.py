#!/usr/bin/env python
"""Prune a trained classifier: ``gluon-compress prune``."""

from gluon_compress.cli.recipes import PRUNE as COMMAND

if __name__ == "__main__":
    COMMAND.main()
