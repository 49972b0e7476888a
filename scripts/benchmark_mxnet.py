#!/usr/bin/env python
"""Find where MXNet's time goes."""

from benchmarks.mxnet_time import COMMAND

if __name__ == "__main__":
    COMMAND.main()
