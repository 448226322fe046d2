"""The cluster that the workers of this program's Celery app serve: it submits there if nothing else is configured."""

from __future__ import annotations

from egregore_dist.settings import Settings

_settings: Settings | None = None


def note(found: Settings) -> None:
    """Note the settings of an app that has been installed into; those of a later one take their place."""
    global _settings
    _settings = found


def settings() -> Settings | None:
    """The settings of the app that was installed into last, or None."""
    return _settings
