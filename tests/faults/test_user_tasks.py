"""Tasks of a user's own, in an app that this package is installed into: none is worse off than without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import shops

ON_LOSS = "worker_cancel_long_running_tasks_on_connection_loss"


@pytest.mark.parametrize("cancels", [True, False], ids=["cancelled", "kept"])
def test_a_task_survives_a_cut_connection(cancels: bool, tmp_path: Path) -> None:
    """A task that is acknowledged late ends well when the connection is cut, whether Celery cancels it then or not."""
    with shops.opened(tmp_path, installed=True, conf={ON_LOSS: cancels}) as shop:
        result = shop.app.tasks["late"].delay("cut", "", 2.0)
        shop.begun("cut")
        shop.proxy.cut()

        assert shop.ends(result)[0] == "SUCCESS"
        # Only one that was cancelled runs again.
        assert shop.runs("cut") == (2 if cancels else 1)
