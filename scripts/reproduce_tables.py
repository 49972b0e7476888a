#!/usr/bin/env python
"""Write the paper's tables."""

from experiments.paper_tables import COMMAND

if __name__ == "__main__":
    COMMAND.main()
