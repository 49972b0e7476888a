#!/usr/bin/env python
"""Draw README's picture of photographs, and write the example beside it."""

from tools.readme_picture import COMMAND

if __name__ == "__main__":
    COMMAND.main()
