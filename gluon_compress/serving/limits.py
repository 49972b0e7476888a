"""What a server grants its clients."""

from __future__ import annotations

from gluon_compress.validation import Count, NonNegative, Positive, Settings


class Limits(Settings):
    """What a server grants its clients.

    Parameters
    ----------
    connections : int
        At once, in all.
    per_address : int
        At once, from one address.
    handshake_seconds : float
        From the first byte of a connection to the welcome, TLS included.
    frame_seconds : float
        From a request's header to its last byte, and for an answer to be read.
    idle_seconds : float
        Between two frames of a client.
    queue : int
        Requests that wait for the net; one more is answered with "busy".
    window : int
        Unanswered requests of a connection; the next one is not read before.
    largest : int
        Bytes that a request can have.
    pixels : int
        That an image can have once it is decoded.
    batch : int
        Requests that the net computes at once.
    wait_ms : float
        Milliseconds that a request waits for others to join its batch.
    drain_seconds : float
        For the answers that are due when the server is stopped.
    """

    connections: Count = 256
    per_address: Count = 64
    handshake_seconds: Positive = 5.0
    frame_seconds: Positive = 60.0
    idle_seconds: Positive = 120.0
    queue: Count = 64
    window: Count = 16
    largest: Count = 4 << 20
    pixels: Count = 1 << 24
    batch: Count = 8
    wait_ms: NonNegative = 2.0
    drain_seconds: NonNegative = 30.0

    def check(self) -> None:
        """Refuse what does not fit its field in a frame."""
        if self.window > 0xFFFF:
            raise self.error("window", "a whole number from 1 to 65535")
        if self.largest > 1 << 30:
            raise self.error("largest", f"a whole number from 1 to {1 << 30}")
