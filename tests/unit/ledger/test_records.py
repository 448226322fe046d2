"""Records of the ledger that strangers have a part in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egregore_dist.ledger.records import ASIDE_BYTES, Aside

TEXTS = st.text() | st.text(alphabet="a\x1b\x07\u202e\u2066\n\r\x9b\U0001f600\ud800", max_size=600)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_rejected_message_is_recorded_short_and_harmless(reason: str, worker: str, queue: str, excerpt: str) -> None:
    noted = Aside(reason=reason, worker=worker, queue=queue, excerpt=excerpt)

    for name, limit in ASIDE_BYTES.items():
        text = getattr(noted, name)
        assert text.isprintable()
        assert len(text.encode()) <= limit
