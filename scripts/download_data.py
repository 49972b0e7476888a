#!/usr/bin/env python
"""Download public data sets: ``gluon-compress download``."""

from gluon_compress.cli.download import DOWNLOAD as COMMAND

if __name__ == "__main__":
    COMMAND.main()
