"""The worker: Celery's own, with a bootstep a concern."""
