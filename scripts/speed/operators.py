"""What kinds of operators take of a head, by MXNet's profiler: JSON in, JSON out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from speed.convolution import noise

# Operators as MXNet names them, fused ones too, by what they are for.
KINDS = {
    "convolution": ("Convolution", "_sg_mkldnn_conv"),
    "BatchNorm": ("BatchNorm",),
    "activation, sum": ("Activation", "relu", "clip", "elemwise_add", "_plus"),
    "pooling": ("Pooling",),
    "transpose, reshape": ("transpose", "Flatten", "Reshape", "Reorder"),
    "concat, slice": ("Concat", "slice"),
}
WAITING = ("WaitForVar", "DeleteVariable")  # of the engine, for operators
OTHER, RUNS, WARM = "other", 20, 5


def kind_of(operator: str) -> str:
    """Return which of ``KINDS`` an operator is of, or ``other``."""
    for kind, starts in KINDS.items():
        if operator.startswith(starts):
            return kind
    return OTHER


def profiled(task: dict) -> dict[str, float]:
    """Return milliseconds an image by kind of operator, in a form of a net."""
    os.environ["MXNET_EXEC_BULK_EXEC_INFERENCE"] = "0"  # operators one by one
    import mxnet as mx

    from speed.forms import finish, form_of
    from speed.nets import built

    run, image = form_of(built(task["net"]), task["form"]), noise((1, 3, 300, 300))
    image = mx.nd.array(image)
    for _ in range(WARM):
        finish(run(image))
    chosen = {"profile_symbolic": True, "profile_imperative": True}
    # MXNet deletes the file it writes to before: never name one that is there.
    with TemporaryDirectory() as place:
        file = str(Path(place, "profile.json"))
        mx.profiler.set_config(**chosen, aggregate_stats=True, filename=file)
        mx.profiler.set_state("run")
        for _ in range(RUNS):
            finish(run(image))
        mx.nd.waitall()
        mx.profiler.set_state("stop")
        told = json.loads(mx.profiler.dumps(reset=True, format="json"))
        mx.profiler.dump()  # or it would be written when the process ends
    spent = dict.fromkeys([*KINDS, OTHER], 0.0)
    for name, figures in told["Time"]["operator"].items():
        if name not in WAITING:
            spent[kind_of(name)] += figures["Total"] / RUNS
    return spent


if __name__ == "__main__":
    print(json.dumps(profiled(json.loads(sys.argv[1]))), flush=True)
