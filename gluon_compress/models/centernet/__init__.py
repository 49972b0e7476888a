"""Detectors without anchors: CenterNet (Zhou et al. 2019), and CoDeNet's structures."""
