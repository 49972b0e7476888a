"""The version of the package, as ``setup.py`` and ``__version__`` state it."""

__version__ = "0.1.0"
