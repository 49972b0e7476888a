"""Sets single weights to zero: masks of weights in the symbol, chosen or learned.

``settings`` states how, ``curves`` how the share of zeros grows, ``masks`` which
weights are kept and what is written into the symbol, ``sparsifying`` puts it together,
and ``training`` moves masks while a net trains.
"""

from gluon_compress.sparsity.settings import SparsitySettings
from gluon_compress.sparsity.sparsifying import sparsify

__all__ = ["SparsitySettings", "sparsify"]
