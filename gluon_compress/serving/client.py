"""A device that lets a server compute, or computes itself where that is faster.

``Client`` runs its connection in a thread of its own, so that its callers need not know
of asyncio. The device computes one image at a time, while others are on their way.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Deque, Iterable, Iterator, Tuple, Union

import numpy as np

from gluon_compress.serving.device import HeadSender, ImageSender, Prepared
from gluon_compress.serving.frames import Failure, Result, Welcome
from gluon_compress.serving.session import ServerAway, Session

SERVER, DEVICE, FILTER, NOWHERE = "server", "device", "filter", "nowhere"
IN_FLIGHT = 4
Image = Union[np.ndarray, bytes]


@dataclass(frozen=True)
class Answer:
    """What came of one image.

    Parameters
    ----------
    where : str
        Where it was computed: ``server``, ``device``, ``filter`` (the neural filter
        found it empty) or ``nowhere``, if there is an error.
    detections : tuple of ndarray
        As ``Predictor`` returns them; none if there is an error.
    reason : str
        Why it was computed on the device.
    error : str
        What is wrong with the image, or that its deadline has passed.
    seconds : float
        From the start of its computation to the answer.
    sent : int
        Bytes of its request.
    waited, computed : float
        Seconds that it waited on the server, and that its batch took there.
    """

    where: str
    detections: Tuple[np.ndarray, ...] = ()
    reason: str = ""
    error: str = ""
    seconds: float = 0.0
    sent: int = 0
    waited: float = 0.0
    computed: float = 0.0


class Client:
    """Detects on images with the help of a server.

    Use it as a context manager::

        with Client("10.0.0.2:7000", head="head") as client:
            for answer in client.stream(images):
                print(answer.where, answer.detections)

    Parameters
    ----------
    server : str
        ``HOST:PORT``.
    head : Head or path, optional
        Of a split net, whose tail the server has. Default: whole images are sent, to a
        server that has the whole net.
    fallback : ImagePredictor, optional
        Computes on the device what the server does not, or not in time.
    deadline : float, optional
        Seconds that an image may take.
    min_kbit : float, optional
        With a fallback: a link of fewer kbit/s is not used.
    patience : float
        Seconds that images wait for a server that is away, without a deadline.
    threshold : float
        Lowest score of detections.
    token : str, optional
        That the server shares.
    tls : ssl.SSLContext, optional
        See ``client_tls``.
    in_flight : int
        Images in work at once.
    quality : int
        Of JPEG, where arrays are sent as images.
    longest : int, optional
        Whole images are shrunk to so many pixels of the longer side.
    runtime, threads
        Of the head, if it is a path.

    Raises
    ------
    ValueError
        For a wrong address, option or head. ``stream`` raises it if the server refuses
        this device, and ``ServerAway``, an OSError, if it is away and there is no
        fallback.
    """

    def __init__(
        self,
        server: str,
        head: Any = None,
        *,
        fallback: Callable | None = None,
        deadline: float | None = None,
        min_kbit: float | None = None,
        patience: float = 10.0,
        threshold: float = 0.0,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        in_flight: int = IN_FLIGHT,
        quality: int = 95,
        longest: int | None = None,
        runtime: str = "onnxruntime",
        threads: int | None = None,
    ) -> None:
        self._host, self._port = split_address(server)
        if min_kbit is not None and fallback is None:
            raise ValueError(f"min_kbit is {min_kbit}; allowed without fallback: None")
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; allowed: a number from 1")
        times = {"deadline": deadline, "min_kbit": min_kbit, "patience": patience}
        for name, value in times.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; allowed: a number above 0")
        if isinstance(head, (str, os.PathLike)):
            from gluon_compress.splitting.halves import open_head

            head = open_head(head, runtime=runtime, threads=threads)
        self._sender: Any = (
            ImageSender(quality, longest) if head is None else HeadSender(head)
        )
        self._fallback, self._deadline, self._min_kbit = fallback, deadline, min_kbit
        self._threshold, self._in_flight = threshold, in_flight
        self._options = {"token": token, "tls": tls, "patience": patience}
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Client:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._work = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._call(self._open()).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join()
        self._loop.close()
        self._work.shutdown(wait=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class id: the server's, or the fallback's while it is away."""
        welcome = self._session.welcome
        if welcome is not None:
            return welcome.classes
        return tuple(getattr(self._fallback, "classes", ()))

    @property
    def kbit(self) -> float | None:
        """Measured rate of the link to the server, kbit/s; None if nothing was sent."""
        return self._session.link.kbit

    @property
    def round_trip(self) -> float | None:
        """Measured round trip to the server, seconds; None if nothing was sent."""
        return self._session.link.round_trip

    def stream(self, images: Iterable[Image]) -> Iterator[Answer]:
        """Yield an answer for each image, in the order of the images.

        Parameters
        ----------
        images : iterable
            RGB ``(H, W, 3)`` arrays, or encoded images (bytes); consumed lazily.

        Raises
        ------
        ValueError
            If the server refuses this device.
        ServerAway
            If the server is away for longer than ``patience`` without a fallback.
        """
        waiting: Deque[Future] = deque()
        try:
            for image in images:
                waiting.append(self._call(self._one(image)))
                while len(waiting) >= self._in_flight:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def detect(self, image: Image) -> Answer:
        """Return the answer for one image."""
        return next(self.stream([image]))

    # ------------------------------------------------------------ in the loop

    def _call(self, work: Any) -> Future:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _open(self) -> None:
        self._device = asyncio.Lock()
        self._session = Session(
            self._host,
            self._port,
            self._sender.hello(self._threshold),
            in_flight=self._in_flight,
            probes=self._fallback is not None,
            check=self._check,
            **self._options,  # type: ignore[arg-type]
        )
        self._running = asyncio.get_running_loop().create_task(self._session.run())

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, welcome: Welcome) -> None:
        """Refuse a server whose class ids mean something else than the fallback's."""
        own = getattr(self._fallback, "classes", None)
        if own is not None and tuple(own) != welcome.classes:
            raise ValueError(
                f"its classes are {list(welcome.classes)[:4]}, those of the fallback "
                f"{list(own)[:4]}; both need the same"
            )

    async def _in_thread(self, function: Callable, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._work, partial(function, *arguments))

    async def _one(self, image: Image) -> Answer:
        async with self._device:
            start = time.monotonic()
            expires = None if self._deadline is None else start + self._deadline
            if self._fallback is not None:
                await self._first_try(expires)
                reason = self._unfit(self._sender.least, expires)
                if reason:
                    return await self._local(image, start, reason)
            try:
                prepared = await self._in_thread(self._sender.prepare, image)
            except ValueError as error:
                return Answer(NOWHERE, error=str(error))
            if prepared is None:
                seconds = time.monotonic() - start
                return Answer(FILTER, self._sender.nothing, seconds=seconds)
            if self._fallback is not None:
                reason = self._unfit(prepared.size, expires)
                if reason:
                    return await self._local(image, start, reason)
            request = self._session.submit(
                prepared.kind, prepared.size, prepared.pack, expires
            )
        return await self._answered(request, prepared, image, start, expires)

    async def _answered(
        self,
        request: Any,
        prepared: Prepared,
        image: Image,
        start: float,
        expires: float | None,
    ) -> Answer:
        """Wait for the server; compute here if it cannot, or not in time."""
        left = None if expires is None else max(0.0, expires - time.monotonic())
        try:
            await asyncio.wait({request.future}, timeout=left)
        finally:
            self._session.forget(request)
        if not request.future.done():
            outcome: Any = (
                Failure.LATE,
                f"no answer within {self._deadline:g} seconds",
            )
        else:
            try:
                outcome = request.future.result()
            except ServerAway as error:
                if self._fallback is None:
                    raise
                outcome = (Failure.BUSY, str(error))
        if isinstance(outcome, Result):
            return Answer(
                SERVER,
                prepared.in_image(outcome.detections),
                seconds=time.monotonic() - start,
                sent=prepared.size,
                waited=outcome.waited,
                computed=outcome.computed,
            )
        failure, line = outcome
        if self._fallback is None or failure is Failure.BAD:
            seconds = time.monotonic() - start
            return Answer(NOWHERE, error=line, seconds=seconds, sent=prepared.size)
        async with self._device:
            return await self._local(image, start, line, prepared.size)

    async def _first_try(self, expires: float | None) -> None:
        """Wait until it is known whether the server is there."""
        if not self._session.tried.is_set():
            left = None if expires is None else max(0.0, expires - time.monotonic())
            trying = asyncio.ensure_future(self._session.tried.wait())
            await asyncio.wait({trying}, timeout=left)
            trying.cancel()
        if self._session.failure is not None:
            raise self._session.failure

    def _unfit(self, size: int, expires: float | None) -> str:
        """Return why the server should not be asked, or nothing."""
        session, now = self._session, time.monotonic()
        reason = ""
        if not session.is_connected:
            return f"server away: {session.reason}"
        kbit = session.link.kbit
        if self._min_kbit is not None and kbit is not None and kbit < self._min_kbit:
            reason = f"link of {kbit:.0f} kbit/s"
        expected = session.link.expected(size, now)
        if reason or expires is None or expected is None:
            return reason
        is_late = now + expected > expires
        return f"link too slow: {1e3 * expected:.0f} ms expected" if is_late else ""

    async def _local(
        self, image: Image, start: float, reason: str, sent: int = 0
    ) -> Answer:
        """Compute on the device; the caller holds the device."""
        try:
            detections = await self._in_thread(self._run_fallback, image)
        except ValueError as error:
            return Answer(NOWHERE, error=str(error), reason=reason)
        seconds = time.monotonic() - start
        return Answer(DEVICE, detections, reason, seconds=seconds, sent=sent)

    def _run_fallback(self, image: Image) -> tuple:
        assert self._fallback is not None
        from gluon_compress.serving.device import as_array

        detections = tuple(self._fallback([as_array(image)])[0])
        enough = detections[1] >= self._threshold
        return tuple(part[enough] for part in detections)


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 host stands in brackets.

    Raises
    ------
    ValueError
        If it is no address.
    """
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    if not host or not is_port or ("[" in host or "]" in host):
        raise ValueError(f"server is {text!r}; allowed: HOST:PORT, as 10.0.0.2:7000")
    return host, int(port)
