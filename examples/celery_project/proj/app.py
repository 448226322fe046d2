"""A Celery project as there are many: its settings and its own task. With one line more, its workers serve workflows."""

from __future__ import annotations

import os
import time

from celery import Celery

from egregore_dist import Sequence, node, parallel
from egregore_dist.worker import install

BROKER_URL = os.environ.get("PROJ_BROKER_URL", "redis://127.0.0.1:6379/0")

app = Celery("proj", broker=BROKER_URL, backend=BROKER_URL)
app.conf.update(
    task_default_queue="celery",
    task_track_started=True,
    worker_prefetch_multiplier=1,  # a worker leaves to others what it cannot start: good for lanes, as for any long task
)


@app.task
def send_mail(to: str) -> str:
    """What the project had before: an ordinary task."""
    time.sleep(0.2)
    return f"mail sent to {to}"


@node("load_invoice")
def load_invoice(number: int) -> dict[str, int]:
    """What is new: nodes and a workflow, in the project's own modules."""
    return {"net": 100 * number}


@node("vat")
def vat(net: int) -> float:
    time.sleep(0.5)
    return net * 0.19


@node("discount")
def discount(net: int) -> float:
    time.sleep(0.5)
    return net * 0.05 if net > 200 else 0.0


@node("invoice")
def total(net: dict[str, float]) -> float:
    return round(net["vat"] - net["discount"], 2)


one_invoice = Sequence(load_invoice, parallel(vat, discount, name="amounts"), total)
billing = Sequence(one_invoice.map(name="invoices"), name="billing")

# The one line more. The app's own settings stay as they are. EGREGORE_MODULES=proj.app says whose nodes may be run.
install(app)
