from __future__ import annotations

import pytest

from gluon_compress.serving.link import Link

RATE = 12_500  # bytes a second: 100 kbit/s
TRIP, SERVER = 0.1, 0.05


def used(link: Link, sizes, *, gap: float, noise=lambda number: 0.0) -> float:
    """Send requests over a link by formula; return the time of the last answer."""
    free, now = 0.0, 0.0
    events = []
    for number, size in enumerate(sizes):
        sent = number * gap
        free = max(free, sent) + size / RATE
        answered = free + TRIP + SERVER + noise(number)
        events += [(sent, 0, number, size), (answered, 1, number, size)]
    for now, is_answer, number, size in sorted(events):
        if is_answer:
            link.answered(number, now, SERVER)
        else:
            link.sent(number, size, now)
    return now


@pytest.mark.parametrize("gap", [0.0, 0.01, 1.0])
def test_rate_is_found_whether_requests_follow_closely_or_not(gap):
    link = Link()
    link.pinged(TRIP)
    used(link, [1000, 4000, 2000, 3000], gap=gap)
    assert link.kbit == pytest.approx(100, rel=1e-6)
    assert link.server_seconds == pytest.approx(SERVER)


def test_delays_of_the_machines_do_not_hide_the_rate():
    link = Link()
    link.pinged(TRIP + 0.3)
    link.pinged(TRIP)
    used(link, [2000] * 5, gap=1.0, noise=lambda number: (0.2, 0, 0.1)[number % 3])
    assert link.round_trip == TRIP
    assert link.kbit == pytest.approx(100, rel=1e-6)


def test_expected_time_counts_what_is_on_the_way():
    link = Link()
    assert link.expected(1000, 0.0) is None
    link.pinged(TRIP)
    end = used(link, [1000, 1000], gap=1.0)
    alone = 1000 / RATE + TRIP + SERVER
    assert link.transit(1000) == pytest.approx(1000 / RATE + TRIP)
    assert link.expected(1000, end) == pytest.approx(alone)
    link.sent(7, 5000, end)
    assert link.expected(1000, end) == pytest.approx(alone + 5000 / RATE)
    assert link.expected(1000, end + 9) == pytest.approx(alone)


def test_rate_follows_a_link_that_gets_slow():
    link = Link()
    link.timed(4096, 0.01)
    for _ in range(5):
        link.timed(4096, 4.0)
    assert link.kbit == pytest.approx(8e-3 * 4096 / 4)


def test_one_transmission_in_no_time_is_chance_and_three_are_a_fast_link():
    link = Link()
    for seconds in (0.4, 0.0, 0.4, 0.0, 0.0):
        link.timed(4000, seconds)
    assert link.kbit == pytest.approx(80)
    link.timed(4000, 0.0)
    assert link.kbit > 50_000


def test_small_requests_and_unknown_answers_say_nothing_of_the_rate():
    link = Link()
    link.sent(1, 60, 0.0)
    link.answered(1, 9.0, 0.0)
    link.answered(5, 9.0, 0.0)
    link.sent(2, 6000, 0.0)
    link.forget()  # the connection has ended
    link.answered(2, 9.0, 0.0)
    assert link.kbit is None
