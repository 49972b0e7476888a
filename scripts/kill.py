#!/usr/bin/env python
"""Kill a small run at many moments, and compare what its resumption leaves."""

from tools.kill import COMMAND

if __name__ == "__main__":
    COMMAND.main()
