"""Serves a tail, or a whole net, to many devices."""

from __future__ import annotations

import argparse
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from gluon_compress.cli.app import Command
from gluon_compress.cli.options import above_0
from gluon_compress.stopping import stop

TEXT = """Compute for devices that send tensors of a split net, or images.

  %(prog)s split/tail --port 7000
  %(prog)s split/tail --port 7000 --host 0.0.0.0 --token-file token --metrics-port 9100
  %(prog)s edge --port 7001 --runtime onnxruntime

A tail serves split-detect; a whole deployed detector serves remote-detect. Requests of
all devices are computed in batches. Ctrl-C and SIGTERM end it after the answers that
are due: exit status 130 and 0. --port 0 takes a free port, which the first line names.
"""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def port(text: str) -> int:
    """Return the number of a port; 0 is any that is free."""
    if text.isascii() and text.isdigit() and int(text[:6]) < 65536:
        return int(text[:6])
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: a port from 0 to 65535")


def from_0(text: str) -> float:
    """Return a number from 0."""
    with suppress(ValueError):
        value = float(text)
        if 0 <= value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number from 0")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a tail, or a deployed folder")
    parser.add_argument("--port", type=port, required=True, metavar="N")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="address to listen at; 0.0.0.0: all; default: 127.0.0.1, this machine",
    )
    parser.add_argument(
        "--runtime", default="onnxruntime", metavar="NAME", help="default: onnxruntime"
    )
    parser.add_argument(
        "--threads", type=above_0, metavar="N", help="default: the runtime's choice"
    )
    _add_limits(parser)
    security = parser.add_argument_group("who may connect")
    security.add_argument(
        "--token-file", metavar="FILE", help="one line that devices must know"
    )
    security.add_argument("--tls-cert", metavar="PEM", help="turns TLS on")
    security.add_argument("--tls-key", metavar="PEM", help="of --tls-cert")
    metrics = parser.add_argument_group("figures")
    metrics.add_argument(
        "--metrics-port",
        type=port,
        metavar="N",
        help="answer GET /metrics, for Prometheus, and GET /health",
    )
    metrics.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="NAME", help="default: 127.0.0.1"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    for name, kind, what in (
        ("batch", above_0, "requests that are computed at once; default: 8"),
        ("max-wait-ms", from_0, "wait for others to join a batch; default: 2"),
        ("queue", above_0, "requests that wait; more are told so; default: 64"),
        ("connections", above_0, "in all; default: 256"),
        ("per-address", above_0, "connections from one address; default: 64"),
        ("max-kbytes", above_0, "of a request; default: 4096"),
        ("idle-seconds", above_0, "until a silent device is let go; default: 120"),
        ("drain-seconds", from_0, "for the last answers at the end; default: 30"),
    ):
        limits.add_argument(f"--{name}", type=kind, metavar="N", help=what)


def limits_of(args: argparse.Namespace) -> Any:
    """Return the limits that options state."""
    from gluon_compress.serving.limits import Limits

    names = ("batch", "queue", "connections", "per_address")
    stated = {name: getattr(args, name) for name in names}
    stated["wait_ms"] = args.max_wait_ms
    stated["largest"] = None if args.max_kbytes is None else args.max_kbytes << 10
    stated["idle_seconds"] = args.idle_seconds
    stated["drain_seconds"] = args.drain_seconds
    return Limits(
        **{name: value for name, value in stated.items() if value is not None}
    )


def _serve(args: argparse.Namespace) -> None:
    """Open the folder, listen, and serve until a signal."""
    from gluon_compress.serving import open_served, read_token, serve, server_tls

    if (args.tls_cert is None) != (args.tls_key is None):
        raise ValueError("--tls-cert and --tls-key: only one is given; allowed: both")
    tls = server_tls(args.tls_cert, args.tls_key) if args.tls_cert else None
    token = read_token(args.token_file) if args.token_file else None
    limits = limits_of(args)
    served = open_served(
        args.folder, runtime=args.runtime, threads=args.threads, pixels=limits.pixels
    )

    def ready(server: Any, metrics_port: int) -> None:
        name = Path(args.folder).resolve().name
        print(f"serving {name} on {args.host}:{server.port}", flush=True)
        if metrics_port:
            place = f"http://{args.metrics_host}:{metrics_port}/metrics"
            print(f"figures: {place}", flush=True)
        if token is None and args.host not in LOOPBACK:
            print("whoever reaches this port may use it: see --token-file", flush=True)

    number = serve(
        served,
        host=args.host,
        port=args.port,
        limits=limits,
        token=token,
        tls=tls,
        metrics_port=args.metrics_port,
        metrics_host=args.metrics_host,
        ready=ready,
    )
    if number != signal.SIGTERM:  # which is how servers are ended
        stop(number, "all requests are answered")


SERVE = Command(TEXT, _add_options, _serve)
