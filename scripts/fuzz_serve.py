#!/usr/bin/env python
"""Send damaged frames and foreign protocols to a server, and see that it lives."""

from tools.fuzz_serve import COMMAND

if __name__ == "__main__":
    COMMAND.main()
