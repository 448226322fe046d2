"""The brake on guessed passwords."""

from __future__ import annotations

from egregore_dist.monitor.attempts import Attempts

ANN, BOB, HERE = ("name", "ann"), ("name", "bob"), ("address", "192.0.2.1")


def test_s11_each_wrong_login_doubles_the_wait() -> None:
    """After some without a wait, a name waits longer after each wrong login, up to a bound; others do not wait."""
    now = [0.0]
    attempts = Attempts(3, first=10, longest=60, forget=900, clock=lambda: now[0])
    waits = []
    for _ in range(7):
        waits.append(attempts.wait(ANN))
        now[0] += waits[-1]
        attempts.begin(ANN)

    assert waits == [0, 0, 0, 10, 20, 40, 60]
    assert attempts.wait(ANN) == 60
    assert attempts.wait(BOB) == 0


def test_s11_attempts_are_forgotten_after_a_while() -> None:
    """A name without a wrong login for long begins anew."""
    now = [0.0]
    attempts = Attempts(1, forget=900, clock=lambda: now[0])
    attempts.begin(ANN, HERE)

    assert attempts.wait(ANN, HERE) > 0
    now[0] = 900
    assert attempts.wait(ANN, HERE) == 0
    attempts.begin(ANN)
    assert attempts._count(attempts._entry(ANN)) == 1


def test_s11_attempts_that_succeed_do_not_count() -> None:
    """Who knows the password may log in as often as they like."""
    attempts = Attempts(3)
    for _ in range(10):
        attempts.begin(ANN)
        attempts.succeeded(ANN)

    assert attempts.wait(ANN) == 0


def test_s11_names_and_addresses_are_counted_apart() -> None:
    """A name that is written like an address shares nothing with it."""
    attempts = Attempts(1)
    attempts.begin(HERE)

    assert attempts.wait(HERE) > 0
    assert attempts.wait(("name", HERE[1])) == 0


def test_s11_a_flood_of_addresses_forgets_no_wait() -> None:
    """An attacker with very many addresses and names neither fills the memory nor ends the wait of a name."""
    attempts = Attempts(1)
    attempts.begin(ANN)
    for number in range(200_000):
        attempts.begin(("address", f"address {number}"), ("name", f"name {number}"))

    assert attempts.wait(ANN) > 0
    assert len(attempts._wrong) <= 2 * 2**16
