"""Makes latency tables of edge runtimes, here or on the device.

``bundle`` writes the blocks of a net as files of a runtime, ``runner`` times them, and
``measuring`` does both in one go. The runner needs nothing of this package.
"""
