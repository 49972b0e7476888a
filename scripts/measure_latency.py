#!/usr/bin/env python
"""Time a net's fused blocks: ``gluon-compress latency``."""

from gluon_compress.cli.latency import LATENCY as COMMAND

if __name__ == "__main__":
    COMMAND.main()
