"""The web monitor: every run, its picture and its timeline, read from the ledger and from nowhere else."""
