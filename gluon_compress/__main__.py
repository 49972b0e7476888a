"""``python -m gluon_compress`` is ``gluon-compress``."""

from gluon_compress.cli import main

if __name__ == "__main__":
    main()
