"""Values as text."""

from __future__ import annotations

from typing import Any, cast

import pytest

from egregore_dist.cli import redact
from egregore_dist.ledger import Ledger, browse
from egregore_dist.monitor import values
from egregore_dist.wire import codec
from egregore_dist.workflow import spec
from tests.support import glances

NODE = spec.NodeSpec(name="node", function=0)
MAP = spec.MapSpec(name="map", body=NODE)
LARGE = "x" * values.DECODED_AT_MOST


def input_of(value: object, root: spec.StepSpec, branch: int, monkeypatch: pytest.MonkeyPatch) -> values.Shown:
    """What is shown of the input of a branch, where the ledger has this value for its block."""
    raw = codec.encode(value, where="here")

    class Stored:
        def input(self, run: str, block: str) -> bytes:
            return raw

    monkeypatch.setattr(browse, "input_start", lambda *_: (len(raw), raw[:16]))
    return values.input(cast(Ledger, Stored()), "order-1", root, glances.block((), n=3), branch)


@pytest.mark.parametrize("make", [list, lambda items: dict(zip("abc", items, strict=True))], ids=["list", "mapping"])
def test_an_item_of_a_large_input_is_shown(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is how large the item is; one that is too large is told of with its own size."""
    made = make([LARGE, {"n": 1}, LARGE])

    small, large = input_of(made, MAP, 1, monkeypatch), input_of(made, MAP, 2, monkeypatch)

    assert (small.text, small.note) == ('{\n  "n": 1\n}', "")
    assert large.text is None
    assert large.size == len(codec.encode(LARGE, where="here"))
    assert "more than 1.0 MB" in large.note


def test_an_input_that_is_no_maps_is_shown_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node gets all of it; and of a map's input not more than some is read."""
    assert "more than 1.0 MB" in input_of([LARGE], NODE, 0, monkeypatch).note
    monkeypatch.setattr(values, "SPLIT_AT_MOST", 2_000_000)
    assert "of more than 2.0 MB" in input_of([LARGE, LARGE, 1], MAP, 2, monkeypatch).note


def test_a_password_breaks_no_number_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value stays what it is, but for a secret in one of its texts."""
    monkeypatch.setattr(redact, "_known", set())
    redact.remember("1234")

    shown = values._text(codec.encode({"n1234": 8123456512, "said": "is 1234"}, where="here"), "result")

    assert shown.text == '{\n  "n1234": 8123456512,\n  "said": "is ***"\n}'


def test_no_part_of_a_secret_is_left_where_a_value_is_cut() -> None:
    """A secret that goes on beyond what is shown is hidden as a whole."""
    redact.remember("canary-of-some-length")
    padding = "x" * (values.LETTERS_SHOWN - 8)

    shown = values._text(codec.encode(f"{padding}canary-of-some-length", where="here"), "result")

    assert shown.text is not None
    assert len(shown.text) <= values.LETTERS_SHOWN
    assert "can" not in shown.text
