#!/usr/bin/env python
"""Measure a deformable convolution in each form, in each runtime."""

from benchmarks.deformable import COMMAND

if __name__ == "__main__":
    COMMAND.main()
