from __future__ import annotations

import asyncio
import time

import pytest

from gluon_compress.serving.batching import Batcher, Waiting
from gluon_compress.serving.frames import Failure, Result
from gluon_compress.serving.limits import Limits
from gluon_compress.serving.metrics import Metrics


def batched(detect, requests, **limits) -> list:
    """Queue requests, ``(item, kind, seconds left, is wanted)``; return answers."""

    async def go() -> list:
        batcher = Batcher(detect, Limits(**limits), Metrics())
        answers: list = [None] * len(requests)
        now = time.monotonic()
        for number, (item, kind, left, is_wanted) in enumerate(requests):

            def answer(*outcome, number=number):
                answers[number] = outcome

            expires = None if left is None else now + left
            waiting = Waiting(
                number, item, kind, now, expires, lambda w=is_wanted: w, answer
            )
            if not batcher.put(waiting):
                answers[number] = "full"
        running = asyncio.ensure_future(batcher.run())
        await asyncio.wait_for(batcher.drained(), 5)
        running.cancel()
        batcher.close()
        return answers

    return asyncio.run(go())


def plain(*items):
    return [(item, None, None, True) for item in items]


def double(calls):
    def detect(items):
        calls.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError("a number below 0")
        if any(item == 99 for item in items):
            raise RuntimeError("a fault")
        return [2 * item for item in items]

    return detect


def outcomes(answers) -> list:
    return [
        answer[0].detections if isinstance(answer[0], Result) else answer[0]
        for answer in answers
    ]


def test_requests_are_computed_in_batches_in_their_order():
    calls: list = []
    answers = batched(double(calls), plain(1, 2, 3, 4, 5), batch=2)
    assert calls == [[1, 2], [3, 4], [5]]
    assert outcomes(answers) == [2, 4, 6, 8, 10]


def test_only_requests_of_one_kind_share_a_batch():
    calls: list = []
    requests = [(1, "a", None, True), (2, "b", None, True), (3, "a", None, True)]
    assert outcomes(batched(double(calls), requests)) == [2, 4, 6]
    assert calls == [[1, 3], [2]]


def test_a_request_waits_for_others_but_not_for_ever():
    calls: list = []
    begun = time.monotonic()
    batched(double(calls), plain(1), wait_ms=60)
    assert 0.05 < time.monotonic() - begun < 3
    assert calls == [[1]]


def test_late_requests_and_those_of_gone_clients_are_not_computed():
    calls: list = []
    requests = [(1, None, 0.0, True), (2, None, 60.0, True), (3, None, None, False)]
    answers = batched(double(calls), requests)
    assert calls == [[2]]
    assert outcomes(answers[:2]) == [Failure.LATE, 4]
    assert answers[2] == (None,)


def test_a_full_queue_says_so_but_late_requests_make_room():
    answers = batched(double([]), plain(1, 2, 3), queue=2)
    assert outcomes(answers[:2]) == [2, 4]
    assert answers[2] == "full"
    requests = [(1, None, 0.0, True), (2, None, None, True)]
    assert outcomes(batched(double([]), requests, queue=1)) == [Failure.LATE, 4]


@pytest.mark.parametrize(
    ("bad", "failure"), [(-1, Failure.BAD), (99, Failure.INTERNAL)]
)
def test_a_bad_request_harms_no_other_of_its_batch(bad, failure, caplog):
    answers = batched(double([]), plain(1, bad, 3))
    assert outcomes(answers) == [2, failure, 6]
    line = answers[1][1]
    assert ("below 0" in line) == (failure is Failure.BAD)
    assert "a fault" not in line  # what failed is the server's business
    assert ("a fault" in caplog.text) == (failure is Failure.INTERNAL)


def test_a_net_that_loses_results_is_at_fault(caplog):
    answers = batched(lambda items: items[1:], plain(1, 2))
    assert outcomes(answers) == [Failure.INTERNAL] * 2
