"""Workflows as Celery tasks: messages are hints, the ledger is the truth."""
