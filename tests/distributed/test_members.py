"""Ranks and their hub, as threads of one process."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from gluon_compress.distributed import frames
from gluon_compress.distributed import members as module
from gluon_compress.distributed.hub import DIVERGED, LOST, Hub
from gluon_compress.distributed.members import ALONE, Member, digest


@contextmanager
def members(size: int, **options):
    """Yield a hub, its members, and what each was told when it was lost."""
    hub = Hub(size, token="secret", settings={"A": "1"})
    lost: dict = {}
    joined = [
        Member(
            rank,
            size,
            (hub.address, hub.port),
            "secret",
            patience=2,
            on_lost=lambda *end, rank=rank: lost.setdefault(rank, end),
            **options,
        )
        for rank in range(size)
    ]
    try:
        yield hub, joined, lost
    finally:
        for member in joined:
            member.leave()
        hub.close()


def each(joined, work) -> list:
    """Return what all ranks return at the same time, or the errors they raise."""
    results: list = [None] * len(joined)

    def run(member) -> None:
        try:
            results[member.rank] = work(member)
        except (ValueError, ArithmeticError) as error:
            results[member.rank] = error

    threads = [threading.Thread(target=run, args=[member]) for member in joined]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_ranks_join_exchange_and_leave():
    with members(3) as (hub, joined, lost):
        assert [m.settings for m in joined] == [{"A": "1"}] * 3
        assert [m.leads for m in joined] == [True, False, False]
        values = each(joined, lambda m: m.exchange("x", m.rank * 10)[0])
        assert values == [[0, 10, 20]] * 3
        assert each(joined, lambda m: m.from_first("y", lambda: m.rank)) == [0] * 3
    assert hub.end is None
    assert not lost


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_sums_do_not_depend_on_who_is_first(order):
    numbers = [np.float32([1e8, -1]), np.float32([1, 2]), np.float32([-1e8, 3])]
    expected = ((numbers[0] + numbers[1]) + numbers[2]) / np.float32(3)

    def late(member):
        time.sleep(0.03 * order.index(member.rank))
        return member.combined("m", numbers[member.rank], "mean")

    with members(3) as (_, joined, _):
        for result in each(joined, late):
            assert np.array_equal(result, expected)


def test_largest_and_first_of_arrays():
    with members(2) as (_, joined, _):

        def largest(member):
            own = np.float32([member.rank, -member.rank])
            return member.combined("m", own, "max").tolist()

        assert each(joined, largest) == [[1, 0]] * 2

        def first(member):
            return member.exchange("f", None, b"ab" if member.leads else b"", "first")

        assert [payload for _, payload in each(joined, first)] == [b"ab"] * 2


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([{"seed": 0}, {"seed": 1}], "rank 1: seed is 1, that of rank 0 is 0"),
        ([{"x": "a"}, {}], "rank 1: x is missing, that of rank 0 is a"),
        ([{}, {"x": "a"}], "rank 1: x is a, that of rank 0 is missing"),
    ],
)
def test_ranks_that_disagree_all_stop_with_one_line(facts, message):
    def agree(member):
        with member.telling():
            member.agree("start", facts[member.rank])

    with members(2) as (hub, joined, _):
        errors = each(joined, agree)
        assert [type(e) is not None and str(e) for e in errors] == [
            f"{message}; all ranks need the same"
        ] * 2
        assert until(lambda: hub.end is not None)
        assert hub.end.reason.startswith(message)
        assert hub.end.status == 2


def test_ranks_that_agree_go_on():
    with members(2) as (_, joined, _):
        assert each(joined, lambda m: m.agree("start", {"seed": 3})) == [None] * 2


def test_what_fails_on_one_rank_stops_all_with_its_name():
    def work(member):
        def open_data() -> int:
            if member.rank == 1:
                raise FileNotFoundError(2, "No such file", "images")
            return 7

        return member.together("data", open_data)

    with members(3) as (_, joined, _):
        errors = each(joined, work)
        assert [str(e) for e in errors] == ["rank 1: images: No such file"] * 3


def test_what_fails_on_all_ranks_names_none():
    def work(member):
        raise ValueError("epochs is 0")

    with members(2) as (_, joined, _):
        errors = each(joined, lambda m: m.together("x", lambda: work(m)))
        assert [str(e) for e in errors] == ["epochs is 0"] * 2


@pytest.mark.parametrize(
    ("kind", "status"), [(ValueError, 2), (ArithmeticError, DIVERGED)]
)
def test_others_learn_why_a_rank_gives_up(kind, status, monkeypatch):
    monkeypatch.setattr(module, "UNWIND_SECONDS", 0.1)

    def work(member):
        with member.telling():
            if member.rank == 0:
                raise kind("the loss became nan")
            member.exchange("never answered")

    with members(2) as (hub, joined, lost):
        errors = each(joined, work)
        assert str(errors[1]).endswith("): the loss became nan")
        assert "rank 0" in str(errors[1])
        assert hub.end.status == status
        # A rank that waits for MXNet's servers cannot know: its process is ended.
        assert until(lambda: len(lost) == 2, 10)
        assert {end[1] for end in lost.values()} == {status}


def test_others_are_ended_when_a_rank_is_gone():
    with members(3) as (hub, joined, lost):
        begun = time.monotonic()
        frames.close(joined[1]._connection)
        assert until(lambda: {0, 2} <= set(lost))
        assert time.monotonic() - begun < 2
        assert lost[0][1] == LOST
        assert "rank 1" in lost[0][0]
        assert hub.end.status == LOST


def test_ranks_at_different_points_stop():
    def work(member):
        member.exchange("step" if member.rank else "notes")

    with members(2) as (_, joined, _):
        errors = each(joined, work)
        assert all("is at 'step', rank 0 at 'notes'" in str(e) for e in errors)


def test_nobody_waits_for_a_rank_that_has_left():
    def work(member):
        if member.rank == 0:
            member.leave()
        else:
            member.exchange("step")

    with members(2) as (_, joined, _):
        error = each(joined, work)[1]
        assert "rank 0" in str(error)
        assert "has ended, but rank 1 is at 'step'" in str(error)


def test_arrays_of_other_lengths_stop():
    def work(member):
        member.combined("m", np.zeros(2 + member.rank, np.float32), "mean")

    with members(2) as (_, joined, _):
        errors = each(joined, work)
        assert all("12 bytes for 'm', rank 0 8" in str(e) for e in errors)


def test_rank_of_another_version_stops_all(monkeypatch):
    hub = Hub(2)
    place = (hub.address, hub.port)
    lost: list = []
    member = Member(0, 2, place, on_lost=lambda *end: lost.append(end))
    monkeypatch.setattr(module, "__version__", "0.0.1")
    with pytest.raises(ValueError, match="rank 1 .*version .* '0.0.1', that of the"):
        Member(1, 2, place, patience=1)
    assert hub.end.status == 2
    assert until(lambda: lost)
    member.leave()
    hub.close()


@pytest.mark.parametrize(
    ("rank", "token", "message"),
    [
        (1, "other", "token is that of another run"),
        (2, "", "rank is 2; allowed: 0 to 1"),
    ],
)
def test_strangers_are_refused_and_harm_nobody(rank, token, message):
    hub = Hub(2)
    with pytest.raises(ValueError, match=f"rank {rank}: refused by .*: {message}"):
        Member(rank, 2, (hub.address, hub.port), token, patience=1)
    assert hub.end is None
    assert hub.absent == [0, 1]
    hub.close()


def test_a_rank_joins_once():
    hub = Hub(2)
    place = (hub.address, hub.port)
    member = Member(1, 2, place, on_lost=lambda *_: None)
    with pytest.raises(ValueError, match="rank 1 .*is there already"):
        Member(1, 2, place, patience=1)
    member.leave()
    hub.close()


def test_noise_on_the_port_harms_nobody():
    hub = Hub(1)
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b""):
        with socket.create_connection((hub.address, hub.port)) as stranger:
            stranger.sendall(noise)
    member = Member(0, 1, (hub.address, hub.port), patience=2)
    assert member.exchange("x", 1)[0] == [1]
    member.leave()
    hub.close()


def test_no_hub_is_told_of_in_a_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    message = (
        f"rank 3: rank 0 at 127.0.0.1:{port} does not answer within 0.1 s: .*refus"
    )
    with pytest.raises(ValueError, match=message):
        Member(3, 4, ("127.0.0.1", port), patience=0.1)


def test_port_in_use_is_named():
    hub = Hub(1)
    with pytest.raises(OSError, match=f"port {hub.port} of 127.0.0.1: .*in use"):
        Hub(1, port=hub.port)
    hub.close()


def test_a_process_alone_needs_nobody():
    ALONE.agree("x", {"a": 1})
    assert ALONE.leads
    assert ALONE.from_first("x", lambda: 3) == 3
    assert ALONE.together("x", lambda: 4) == 4
    array = np.ones(2, np.float32)
    assert ALONE.combined("x", array, "mean") is array
    assert module.ranks() is ALONE


def test_digests_tell_shapes_and_types_apart():
    zeros = [np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3), np.int64), b"\0" * 48]
    assert len({digest(each) for each in zeros}) == 4
    assert digest(zeros[0]) == digest(np.zeros((2, 3)))
    assert digest(b"a", b"b") != digest(b"b", b"a")
