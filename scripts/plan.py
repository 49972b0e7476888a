#!/usr/bin/env python
"""Plan what a recipe compresses: ``gluon-compress plan``."""

from gluon_compress.cli.recipes import PLAN as COMMAND

if __name__ == "__main__":
    COMMAND.main()
