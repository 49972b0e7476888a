#!/usr/bin/env python
"""Time a convolution with zeros in its weight in every runtime."""

from benchmarks.sparsity import COMMAND

if __name__ == "__main__":
    COMMAND.main()
