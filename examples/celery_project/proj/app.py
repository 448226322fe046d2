"""A Celery project as there are many, with settings and a task. One line more, and its workers serve workflows."""

from __future__ import annotations

import os
import time

from celery import Celery

from egregore_dist import Sequence, node
from egregore_dist.worker import install

BROKER_URL = os.environ.get("PROJ_BROKER_URL", "redis://127.0.0.1:6379/0")

app = Celery("proj", broker=BROKER_URL, backend=BROKER_URL)
app.conf.update(
    task_default_queue="celery",
    task_track_started=True,
    worker_prefetch_multiplier=1,  # good for lanes, as for any long task: what waits goes to whoever is free
)


@app.task(name="send_mail")
def send_mail(to: str) -> str:
    """What the project had before: an ordinary task."""
    time.sleep(0.5)
    return f"mail sent to {to}"


@node("open_orders")
def open_orders(month: str) -> list[int]:
    """What is new: nodes and a workflow, in the project's own modules."""
    return [len(month) * number for number in range(1, 9)]


@node("write_invoice")
def write_invoice(order: int) -> dict[str, float]:
    time.sleep(0.25)
    return {"order": order, "amount": order * 1.19}


@node("book")
def book(invoices: list[dict[str, float]]) -> str:
    return f"{len(invoices)} invoices, {sum(invoice['amount'] for invoice in invoices):.2f} in all"


billing = Sequence(open_orders, write_invoice.map(name="invoices"), book, name="billing")

# The one line more. The app's own settings stay as they are, and whoever imports this submits workflows to its broker.
# A worker runs only the nodes of modules that it is told.
install(app, modules=[__name__])
