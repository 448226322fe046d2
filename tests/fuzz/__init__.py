"""Fuzzing of every decoder, for time, memory and undocumented exceptions: ``python -m tests.fuzz``."""
