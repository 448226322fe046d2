"""Data and code on the wire."""
