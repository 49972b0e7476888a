#!/usr/bin/env python
"""Draw two detectors side by side: ``gluon-compress compare``."""

from gluon_compress.cli.detect import COMPARE as COMMAND

if __name__ == "__main__":
    COMMAND.main()
