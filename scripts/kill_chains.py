#!/usr/bin/env python
"""Kill loops that compress a tiny net, and compare what their resumption leaves."""

from tools.kill_chains import COMMAND

if __name__ == "__main__":
    COMMAND.main()
