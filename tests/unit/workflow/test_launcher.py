"""The way to the client."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from egregore_dist.workflow import launcher


def test_current_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher is looked up in the client each time it is wanted."""
    module = ModuleType("egregore_dist.client.launch")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    for held in (object(), object()):
        vars(module)["launcher"] = held
        assert launcher.current() is held
