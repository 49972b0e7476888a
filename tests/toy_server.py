"""Serves the fake tail until a signal: ``toy_server.py PORT [SECONDS A BATCH]``."""

from __future__ import annotations

import sys

from gluon_compress.serving.limits import Limits
from gluon_compress.serving.running import serve
from gluon_compress.serving.served import ServedTail
from halves import FakeTail


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    ended_by = serve(
        ServedTail(FakeTail(seconds=seconds)),
        port=int(sys.argv[1]),
        limits=Limits(batch=4),
        ready=lambda server, port: say("ready"),
    )
    say(f"ended by {ended_by}")
