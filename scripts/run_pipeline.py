#!/usr/bin/env python
"""Carry out a recipe: ``gluon-compress run``."""

from gluon_compress.cli.recipes import RUN as COMMAND

if __name__ == "__main__":
    COMMAND.main()
