"""An ordinary task and a workflow, side by side on the ordinary worker of a Celery project.

Only what a project has anyway is started here: a server, and ``celery -A proj.app worker -Q celery,egregore``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from egregore_dist.client.processes import Process
from egregore_dist.client.server import Server

PROJECT = Path(__file__).parent
WORKER = [sys.executable, "-m", "celery", "-A", "proj.app", "worker", "-Q", "celery,egregore", "-c", "2"]


def main() -> None:
    """Start server and worker, use both kinds of work at once, and look at the worker with Celery's own tool."""
    with tempfile.TemporaryDirectory() as folder, Server.start(tcp=True) as server:
        os.environ |= {"PROJ_BROKER_URL": server.tcp_url}
        worker = Process.spawn(WORKER, env=os.environ, log=Path(folder, "worker.log"), cwd=PROJECT)
        try:
            use_both()
        except BaseException:
            print(worker.log_tail(), file=sys.stderr)
            raise
        finally:
            worker.stop(timeout=60)


def use_both() -> None:
    """What the project's own code does: it submits tasks as ever, and workflows beside them, to the app's broker."""
    from proj.app import app, billing, send_mail

    while not app.control.inspect(limit=1).ping():
        time.sleep(0.1)
    run = billing.submit({"month": "march"}, id="march")
    mail = send_mail.delay("ada@example.org")
    print("celery inspect active, while both are at work:")
    seen: set[str] = set()
    while run.status in ("pending", "running"):
        for tasks in (app.control.inspect(limit=1).active() or {}).values():
            # Ours are named by their block, and their first argument is the run.
            for line in sorted({" ".join([task["name"], *task["args"][:1]]) for task in tasks} - seen):
                seen.add(line)
                print(f"  {line}")
        time.sleep(0.05)
    print(f"task:     {mail.get(timeout=60)}")
    print(f"workflow: {run.result()}")
    app.close()


if __name__ == "__main__":
    main()
