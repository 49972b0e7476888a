"""Binarises nets: weights of two values for each filter, and inputs of two values.

``settings`` states how, ``binarisers`` what is written into the symbol and how it is
read back, ``binarising`` chooses layers and puts it together, and ``training`` moves
scales and switches while a net trains.
"""

from gluon_compress.binarization.settings import BinarizationSettings

__all__ = ["BinarizationSettings"]
