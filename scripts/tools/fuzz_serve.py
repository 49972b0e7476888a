"""Sends damaged frames and foreign protocols to a server, and judges what it does."""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0, add_out, write_result
from gluon_compress.markdown import table
from gluon_compress.provenance import ROOT
from gluon_compress.serving.frames import (
    HEADER,
    MAGIC,
    NONCE,
    SIZES,
    VERSION,
    Hello,
    Kind,
    Mode,
    frame,
    pack_tensor,
)
from gluon_compress.storage.atomic import read_json, write_atomically
from tools.damage import DAMAGES

TEXT = """Send damaged frames and foreign protocols to a server, and see that it lives.

  %(prog)s --trials 5000 --out docs/reliability/fuzz_serve

A server of the command serve runs in a process of its own, with the tail of a small
net. Each trial is one connection. Bad is: an answer that is no sound frame, a sound
request that is not answered rightly afterwards, a traceback, a longer line, or a server
that has ended. At the end, its memory and its open files must be what they were.
"""
PAGE = "fuzz_serve.md"
INTRODUCTION = """# Damaged frames

{trials:,} connections sent a server what is no sound conversation: foreign protocols,
noise, handshakes and requests that were damaged or cut, in pieces, with a proper end or
without one. *Refused* means that the server said why in one line; *answered*, that it
took what was sent for a request, and answered it or said what is wrong with it;
*closed*, that there was nothing to answer. After each {sound} connections, a sound
request had to get its right answer.

The server's memory grew by {grown_MB} MB, and it had {files} more files open afterwards
than before. The slowest connection took {slowest_seconds} seconds; a client that is
silent is let go after {handshake} seconds.

Made by `scripts/fuzz_serve.py --trials {trials} --seed {seed}`; commit {commit},
{date}.
"""
COLUMNS = ("tried", "refused", "answered", "closed", "bad")
SOUND = 20  # connections between two sound requests
WAIT = 10.0  # seconds for an answer
LONGEST_LINE = 400
MOST_GROWN = 50  # MB
HANDSHAKE = 5  # seconds, the server's default
FOREIGN = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x00\x00\x00\x2f\xffSMBr" + bytes(40),
    b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
    b"",
)

Trial = Callable[["Talk", random.Random], None]


class Talk:
    """One connection, and what has come over it.

    Parameters
    ----------
    port : int
    hello : Hello
        A sound one.
    request : bytes
        A sound one, a frame.
    """

    def __init__(self, port: int, hello: Hello, request: bytes) -> None:
        self.hello, self.request = hello, request
        self.link = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.came = b""

    def send(self, data: bytes) -> None:
        """Send; the server may have closed."""
        with suppress(ConnectionError):
            self.link.sendall(data)

    def greet(self) -> None:
        """Shake hands."""
        self.link.settimeout(WAIT)
        while len(self.came) < HEADER.size + NONCE:
            self.came += self._part()
        nonce = self.came[HEADER.size : HEADER.size + NONCE]
        self.send(frame(Kind.HELLO, self.hello.packed(nonce, None)))

    def _part(self) -> bytes:
        part = self.link.recv(1 << 16)
        if not part:
            raise ConnectionError("closed")
        return part

    def rest(self) -> None:
        """End our side, and take what is left."""
        with suppress(OSError):
            self.link.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while True:
                self.came += self._part()


# ---------------------------------------------------------------- kinds of trials


def foreign(talk: Talk, draw: random.Random) -> None:
    """Speak another protocol."""
    talk.send(draw.choice(FOREIGN))


def noise(talk: Talk, draw: random.Random) -> None:
    """Send random bytes, some behind a header."""
    data = bytes(draw.randrange(256) for _ in range(draw.choice((1, 7, 8, 9, 500))))
    if draw.random() < 0.5:
        header = HEADER.pack(MAGIC, VERSION, draw.choice(list(Kind)), len(data))
        data = header + data
    if draw.random() < 0.5:
        talk.greet()
    talk.send(data)


def handshake(talk: Talk, draw: random.Random) -> None:
    """Send a damaged hello."""
    hello = frame(Kind.HELLO, talk.hello.packed(bytes(NONCE), None))
    talk.send(damaged(hello, talk.request, draw))


def request(talk: Talk, draw: random.Random) -> None:
    """Send damaged requests after a sound handshake."""
    talk.greet()
    for _ in range(draw.choice((1, 1, 2, 5))):
        talk.send(damaged(talk.request, frame(Kind.PING, bytes(8)), draw))


def body(talk: Talk, draw: random.Random) -> None:
    """Send requests whose header is sound and whose body is not."""
    talk.greet()
    for _ in range(draw.choice((1, 1, 2, 5))):
        content = damaged(talk.request[HEADER.size :], bytes(99), draw)
        least, most = SIZES[Kind.TENSOR]
        content = content.ljust(least, b"\0")[:most]
        talk.send(frame(Kind.TENSOR, content))


def mixture(talk: Talk, draw: random.Random) -> None:
    """Send sound frames of all kinds, in any order, without waiting."""
    if draw.random() < 0.8:
        talk.greet()
    for _ in range(draw.choice((1, 3, 10))):
        kind = draw.choice(list(Kind))
        least, most = SIZES[kind]
        size = draw.choice((least, min(most, least + 40), min(most, 2000)))
        sound = [talk.request, frame(Kind.PING, bytes(8)), frame(kind, bytes(size))]
        talk.send(draw.choice(sound))


def pieces(talk: Talk, draw: random.Random) -> None:
    """Send sound requests in small pieces."""
    talk.greet()
    data = 2 * talk.request
    while data:
        size = draw.choice((1, 3, 100, len(data)))
        talk.send(data[:size])
        data = data[size:]
        time.sleep(draw.choice((0, 0, 0.001)))


def cut(talk: Talk, draw: random.Random) -> None:
    """Send a part of a sound conversation."""
    hello = frame(Kind.HELLO, talk.hello.packed(bytes(NONCE), None))
    if draw.random() < 0.5:
        talk.send(hello[: draw.randrange(len(hello))])
        return
    talk.greet()
    talk.send(talk.request[: draw.randrange(len(talk.request))])


KINDS: dict[str, Trial] = {
    trial.__name__: trial
    for trial in (foreign, noise, handshake, request, body, mixture, pieces, cut)
}


def damaged(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return bytes with damage of a random kind."""
    return DAMAGES[draw.choice(("bits", "cut", "splice", "words"))](data, draw, other)


# ---------------------------------------------------------------- judging


def tried(kind: str, talk: Talk, draw: random.Random) -> str:
    """Do one trial; return what came of it: a column, or what is bad."""
    try:
        with suppress(ConnectionError):
            KINDS[kind](talk, draw)
        if draw.random() < 0.2:  # no proper end
            linger = struct.pack("ii", 1, 0)
            talk.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            talk.rest()
    except (socket.timeout, TimeoutError):
        return f"no end within {WAIT:.0f} seconds"
    finally:
        talk.link.close()
    return judged(talk.came)


def judged(came: bytes) -> str:
    """Return what a server's bytes mean."""
    kinds = []
    while len(came) >= HEADER.size:
        magic, version, number, size = HEADER.unpack(came[: HEADER.size])
        if (magic, version) != (MAGIC, VERSION) or number not in tuple(Kind):
            return f"an answer that starts with {came[:8]!r}"
        kind = Kind(number)
        least, most = SIZES[kind]
        if not least <= size <= most:
            return f"a {kind.name} of {size} bytes"
        if kind in (Kind.REFUSED, Kind.FAILED):
            line = came[HEADER.size + (1 if kind is Kind.REFUSED else 5) :][:size]
            if b"\n" in line[: max(0, size - 5)]:
                return f"a line with a break: {line[:80]!r}"
        kinds.append(kind)
        came = came[HEADER.size + size :]
    if Kind.REFUSED in kinds:
        return "refused"
    return "answered" if {Kind.RESULT, Kind.FAILED, Kind.PONG} & {*kinds} else "closed"


def campaign(
    port: int,
    hello: Hello,
    request: bytes,
    is_sound: Callable[[], bool],
    *,
    trials: int,
    seed: int,
) -> dict[str, Any]:
    """Return what came of many connections.

    Parameters
    ----------
    port : int
        Of the server.
    hello : Hello
    request : bytes
        A sound frame.
    is_sound : callable
        Whether a sound request is answered rightly.
    trials, seed : int
    """
    counts = {kind: Counter() for kind in KINDS}
    bad: list[dict[str, Any]] = []
    slowest = 0.0
    for trial in range(trials):
        draw = random.Random(f"{seed} {trial}")
        kind = sorted(KINDS)[trial % len(KINDS)]
        begun = time.monotonic()
        outcome = tried(kind, Talk(port, hello, request), draw)
        slowest = max(slowest, time.monotonic() - begun)
        if (trial + 1) % SOUND == 0 and not is_sound():
            outcome = "a sound request is not answered afterwards"
        counts[kind]["tried"] += 1
        counts[kind][outcome if outcome in COLUMNS else "bad"] += 1
        if outcome not in COLUMNS:
            bad.append({"trial": trial, "kind": kind, "outcome": outcome})
    return {
        "trials": trials,
        "seed": seed,
        "kinds": {k: {c: counts[k][c] for c in COLUMNS} for k in sorted(counts)},
        "slowest_seconds": round(slowest, 2),
        "bad": bad,
    }


# ---------------------------------------------------------------- the command


@contextmanager
def server_process(tail: Path, log: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Run the command ``serve``; yield its process and port."""
    command = [sys.executable, "-W", "ignore", "-m", "gluon_compress", "serve"]
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [*command, str(tail), "--port", "0", "--per-address", "200"],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            match = re.search(r":(\d+)$", line.strip())
            if match is None:
                said = log.read_text(encoding="utf-8", errors="replace").strip()
                raise ValueError(f"the server does not start: {said or line}")
            yield process, int(match[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()  # type: ignore[union-attr]


def halves(folder: Path) -> None:
    """Write the halves of a small detector, cut where it has narrow maps."""
    import gluon_compress as gc
    from gluon_compress.splitting import save_halves, split

    net = gc.build("ssd_300_mobilenet0.25_lite", ["a", "b"], width=0.5)
    points = split(net)
    narrow = min(points, key=lambda point: point.bytes(8))
    formats = {"head_formats": ["onnx-dynamic"], "tail_formats": ["onnx-dynamic"]}
    save_halves(net, folder, at=narrow.name, **formats)


def _state(process: subprocess.Popen) -> tuple[float, int]:
    """Return megabytes and open files of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    resident = re.search(r"VmRSS:\s*(\d+) kB", status)
    files = len(os.listdir(f"/proc/{process.pid}/fd"))
    return int(resident[1]) / 1000 if resident else 0.0, files


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--trials", type=above_0, default=500, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    add_out(parser, "kinds", "grown_MB", "bad", files=[PAGE])


def run(args: argparse.Namespace) -> None:
    """Run a server, send it damaged frames, and write result.json and the page."""
    with tempfile.TemporaryDirectory() as scratch:
        halves(Path(scratch))
        result = _judged_server(args, Path(scratch))
    path = write_result(args.out, result)
    write_atomically(Path(args.out) / PAGE, page_of(read_json(path)))
    print(path)
    if result["bad"]:
        sys.exit(1)


def _judged_server(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import numpy as np

    from gluon_compress.serving import Client
    from gluon_compress.splitting import open_head, open_tail

    head, log = open_head(folder / "head", threads=1), folder / "log"
    image = np.random.RandomState(0).randint(0, 255, (120, 160, 3)).astype(np.uint8)
    message = head.encode(image)
    (expected,) = open_tail(folder / "tail", threads=1).detect([message])
    hello = Hello(Mode.SPLIT, head.bits, bytes.fromhex(head.pair))
    sound = frame(Kind.TENSOR, pack_tensor(1, 0, message))
    with server_process(folder / "tail", log) as (process, port):

        def is_sound() -> bool:
            with Client(f"127.0.0.1:{port}", head) as client:
                answer = client.detect(image)
            pairs = zip(answer.detections, expected)
            return not answer.error and all(
                np.allclose(one, other, atol=1e-4) for one, other in pairs
            )

        options = {"trials": SOUND * len(KINDS), "seed": args.seed - 1}
        campaign(port, hello, sound, is_sound, **options)  # caches fill first
        time.sleep(1)
        memory, files = _state(process)
        options = {"trials": args.trials, "seed": args.seed}
        result = campaign(port, hello, sound, is_sound, **options)
        time.sleep(1)
        after = _state(process)
        ended = process.poll()
    result.update(grown_MB=round(after[0] - memory), files=after[1] - files)
    result["bad"] += [{"kind": "server", "outcome": o} for o in _faults(log, result)]
    status = process.returncode if ended is None else ended
    if status:
        outcome = f"the server ended with status {status}"
        result["bad"].append({"kind": "server", "outcome": outcome})
    return result


def _faults(log: Path, result: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a server after a campaign."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    faults = [f"a line of {len(line)}" for line in lines if len(line) > LONGEST_LINE]
    faults += [line[:80] for line in lines if "Traceback" in line or "failed:" in line]
    if result["grown_MB"] > MOST_GROWN:
        faults.append(f"{result['grown_MB']} MB more")
    if result["files"] > 0:
        faults.append(f"{result['files']} files more")
    return faults


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page of a campaign as Markdown, from its result alone."""
    constants = {"sound": SOUND, "handshake": HANDSHAKE, "date": result["date"][:10]}
    rows = result["kinds"].items()
    total = [str(sum(row[c] for _, row in rows)) for c in COLUMNS]
    cells = [(name, *(str(row[c]) for c in COLUMNS)) for name, row in rows]
    lines = [INTRODUCTION.format(**{**result, **constants})]
    lines.append(table(("kind", *COLUMNS), [*cells, ("all", *total)]))
    lines += [f"- {row['kind']}: {row['outcome']}" for row in result["bad"]]
    return "\n".join(lines)


COMMAND = Command(TEXT, add_options, run)
