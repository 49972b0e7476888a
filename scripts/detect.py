#!/usr/bin/env python
"""Draw what a detector finds: ``gluon-compress detect``."""

from gluon_compress.cli.detect import DETECT as COMMAND

if __name__ == "__main__":
    COMMAND.main()
