"""What is looked at before a workflow is submitted."""

from __future__ import annotations

import re

import pytest

from egregore_dist import errors, node, parallel
from egregore_dist.client import session


@node
def search(query, limit=10):  # type: ignore[no-untyped-def]
    return query, limit


class Reached(Exception):
    pass


def test_submit_warns_where_a_first_node_is_bound_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, at the line of the user's own that submits, before a cluster is looked for."""

    def current() -> None:
        raise Reached

    monkeypatch.setattr(session, "current", current)
    flow = parallel(search.alias("of_test_launch"), node("other")(lambda data: data))
    with (
        pytest.warns(errors.BindingWarning, match=re.escape("annotate `query: str`")) as caught,
        pytest.raises(Reached),
    ):
        flow({"query": "q"})
    with pytest.raises(Reached):
        flow.submit({"query": "q"})

    assert [warning.filename for warning in caught] == [__file__]
