#!/usr/bin/env python
"""Time a training step of a quantised classifier."""

from benchmarks.quantization import COMMAND

if __name__ == "__main__":
    COMMAND.main()
