"""How many messages wait, on every broker that there is."""

from __future__ import annotations

import uuid

from egregore_dist import LocalCluster
from egregore_dist.engine import app as apps
from egregore_dist.engine.queues import Queues
from tests.support.waiting import until


def test_messages_are_counted(cluster: LocalCluster) -> None:
    """Of several queues, where some are empty or are not there; a broker that comes back is asked again."""
    app = apps.make_app(cluster.settings)
    names = [f"egregore-test-{uuid.uuid4().hex}-{number}" for number in range(3)]
    mine = Queues(app)
    try:
        assert mine.waiting(names) == 0
        for name in names[1:]:
            app.send_task("nobody.s", queue=name, ignore_result=True)
        app.send_task("nobody.s", queue=names[1], ignore_result=True)

        # RabbitMQ counts what it was sent a moment later.
        until(lambda: mine.waiting(names) == 3, what="three messages")
        assert mine.waiting(names[:1]) == 0
        assert mine.waiting(names[2:]) == 1
        mine.close()
        assert mine.waiting(names) == 3
    finally:
        mine.close()
        with app.connection_for_write() as connection:
            for name in names:
                connection.channel().queue_delete(name)
        app.close()
