#!/usr/bin/env python
"""Write a model for edge runtimes: ``gluon-compress export``."""

from gluon_compress.cli.export import EXPORT as COMMAND

if __name__ == "__main__":
    COMMAND.main()
