"""Commands' arguments and replies."""

from __future__ import annotations

from typing import Any

import pytest

from egregore_dist import errors
from egregore_dist.ledger import replies
from egregore_dist.ledger.connection import CONNECTION
from egregore_dist.ledger.keys import Keys


@pytest.mark.parametrize(("asked", "waits"), [(0, 0.01), (1.5, 1.5), (60, 3.0)])
def test_no_wait_is_longer_than_a_connection_may_be_silent(asked: float, waits: float) -> None:
    """A server that has nothing to say yet would be taken for one that is gone."""
    assert replies.wait_command(Keys("egd"), "r", asked)[-1] == waits
    assert replies.block_for(asked) == max(1, waits * 1000 if asked else 1)
    assert waits < CONNECTION["socket_timeout"]


LANE = [b"lane", b"0", b"0", b"q", b"flow", b"", b"1700000000000"]


@pytest.mark.parametrize(
    "changed",
    [
        {2: b"1"},
        {2: None},
        {3: [b"3", 1, b""]},
        {3: [b"3", 1, b"", b"two node"]},
        {4: [b"0", b"0", b"1"]},
        {6: [*LANE[:2], b"first", *LANE[3:]]},
        {6: [*LANE[:3], b"\xff", *LANE[4:]]},
        {6: [*LANE[:4], None, *LANE[5:]]},
        {7: [b"bucket"]},
        {8: None},
    ],
)
def test_an_unreadable_reply_is_an_encoding_error(changed: dict[int, Any]) -> None:
    """Replies contain parts of records, which something else may have written."""
    reply = [b"open", 5, 1, [b"3", 1, b"", b"2 node"], [], 0, LANE, [], 0]
    assert len(replies.served(reply).leases) == 2

    with pytest.raises(errors.EncodingError, match=r"^the reply of a ledger script cannot be read: .*damaged"):
        replies.served([changed.get(part, value) for part, value in enumerate(reply)])


@pytest.mark.parametrize("publish", [LANE[:-1], [*LANE[:-1], b"long ago"], [*LANE[:-1], None]])
def test_unreadable_messages_are_one_encoding_error(publish: list[Any]) -> None:
    """Also where alarms come with the messages."""
    for decode, reply in ((replies.messages, publish), (replies.tended, [publish, []])):
        with pytest.raises(errors.EncodingError) as raised:
            decode(reply)
        assert str(raised.value).count("cannot be read") == 1


def test_unreadable_entries_of_the_agenda_are_left_out() -> None:
    """An entry has a run, a kind and a block, in UTF-8."""
    entries = [b"a hint 0", b"\xff hint 0", b"", b"a", b"a hint", b"b tidy 0.1-0,1", b"a hint 0 1"]

    assert replies.agenda(entries) == [("a", "hint", "0"), ("b", "tidy", "0.1-0,1")]
