"""Times forms of heads in MXNet in turn, each with one change more: JSON in and out."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from speed.convolution import noise

FORMS = {
    "raw": "two predictors for each map, BatchNorm by itself",
    "folded": "BatchNorm folded into convolutions",
    "joined": "one predictor for each map, one output",
    "fused": "MXNet's fused back end",
    "wide": "predictors of whole blocks of channels: what a `Predictor` runs",
}
WARM = 2  # runs of each turn that are not counted


def form_of(net: Any, form: str):
    """Return the head of a detector in one of ``FORMS``."""
    from gluon_compress.deployment.fold import fold
    from gluon_compress.deployment.pad_channels import pad_channels
    from gluon_compress.deployment.runtimes import FUSED
    from gluon_compress.graph import block_of, pair_of
    from gluon_compress.models.family import family_of

    steps = list(FORMS)[: list(FORMS).index(form) + 1]
    joined = "joined" in steps
    symbol, params = family_of(net).inference_graph(net) if joined else pair_of(net)
    if "folded" in steps:
        symbol, params = fold(symbol, params)
    if form == "wide":
        symbol, params = pad_channels(symbol, params)
    if "fused" in steps:
        symbol = symbol.get_backend_symbol(FUSED)
    block = block_of(symbol, params)
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def timed(task: dict) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds of each counted run, by net and form."""
    import mxnet as mx

    from speed.nets import built

    image = mx.nd.array(noise((1, 3, 300, 300)))
    runs = {}
    for name in task["nets"]:
        net = built(name)
        runs.update({(name, form): form_of(net, form) for form in FORMS})
    times: dict = {name: {form: [] for form in FORMS} for name in task["nets"]}
    end, last = time.monotonic() + task["seconds"], False
    while not last:
        last = time.monotonic() > end
        for (name, form), run in runs.items():
            for i in range(2 * WARM):
                begun = time.perf_counter()
                finish(run(image))
                if i >= WARM:
                    passed = time.perf_counter() - begun
                    times[name][form].append(1e3 * passed)
    return times


def finish(outputs: Any) -> None:
    """Wait for the outputs of a block."""
    for output in outputs if isinstance(outputs, (list, tuple)) else [outputs]:
        output.wait_to_read()


if __name__ == "__main__":
    print(json.dumps(timed(json.loads(sys.argv[1]))), flush=True)
