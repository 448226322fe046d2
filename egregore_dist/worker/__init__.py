"""The worker: Celery's own, with a bootstep a concern. `install` puts it into a Celery app of the user's own."""

from egregore_dist.worker.service import install

__all__ = ["install"]
