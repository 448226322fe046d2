"""The figures of this package, measured beside a plain Celery chord on the same server."""
