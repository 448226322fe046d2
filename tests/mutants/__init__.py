"""Mutations of what the guarantees hang on; each must fail a test."""
