"""Values as text."""

from __future__ import annotations

from egregore_dist.cli import redact
from egregore_dist.monitor import values
from egregore_dist.wire import codec


def test_no_part_of_a_secret_is_left_where_a_value_is_cut() -> None:
    """A secret that goes on beyond what is shown is hidden as a whole."""
    redact.remember("canary-of-some-length")
    padding = "x" * (values.LETTERS_SHOWN - 8)

    shown = values._text(codec.encode(f"{padding}canary-of-some-length", where="here"), "result")

    assert shown.text is not None
    assert len(shown.text) <= values.LETTERS_SHOWN
    assert "can" not in shown.text
