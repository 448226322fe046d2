"""What is learned of nodes, as it is printed."""

from __future__ import annotations

import pytest

from egregore_dist.cli import nodes
from egregore_dist.resources.profile import Profile


@pytest.mark.parametrize(
    ("reference", "name"),
    [("m:shop.flows:fetch", "shop.flows:fetch"), (f"v:{'ab' * 32}", "by value, abababababab")],
)
def test_functions_have_names(reference: str, name: str) -> None:
    """A function of a module is called by its name, one that travels by value by the beginning of its digest."""
    assert nodes.function_name(reference) == name


def test_what_was_not_measured_is_null() -> None:
    """Quantities that nothing is known of are null, and the others have mean, p50 and p95."""
    profile = Profile(at=1500, count=20.0)
    for seconds in (1.0,) * 19 + (8.0,):
        profile.wall.add(seconds)

    said = nodes.as_json("m:a:b", profile, {"m:a:b": {"two", "one"}})

    assert (said["names"], said["function"], said["executions"]) == (["one", "two"], "a:b", 20.0)
    assert said["wall"]["mean"] == pytest.approx(1.35)
    assert 1.0 <= said["wall"]["p50"] <= said["wall"]["p95"] < 1.3
    assert (said["cpu"], said["memory"], said["result"]) == (None, None, None)
    assert said["learned"] == "1970-01-01T00:00:01.500+00:00"
