"""Quantises nets: fake quantisers in the symbol, where runtimes compute in integers.

``settings`` states how, ``placement`` where, ``quantisers`` what is written into the
symbol, ``ranges`` measures on data, ``corrections`` makes rounding hurt less,
``quantising`` puts it together, ``training`` moves scales while a net trains, ``hawq``
chooses bits under a budget, and ``packing`` stores levels in few bits.
"""

from gluon_compress.quantization.quantising import quantize, quantized
from gluon_compress.quantization.settings import QuantizationSettings

__all__ = ["QuantizationSettings", "quantize", "quantized"]
