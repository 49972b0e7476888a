#!/usr/bin/env python
"""Run the pruning experiments on Imagenette, and write their page."""

from experiments.imagenette import COMMAND

if __name__ == "__main__":
    COMMAND.main()
