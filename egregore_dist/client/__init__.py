"""Submitting runs, waiting for them, and the embedded cluster."""
