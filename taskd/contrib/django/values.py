"""Values on their way between Django and the server: JSON, and times with or without a time zone."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from taskd.contrib.django.tasks_api import normalize_json

__all__ = ["aware", "json_value", "project_time"]


def json_value(value: Any) -> Any:
    """Return a value as JSON has it, converted as Django's own backends do.

    Raises `TypeError` for an object of another type, `ValueError` for NaN and Infinity.
    """
    return json.loads(json.dumps(normalize_json(value), allow_nan=False))


def aware(moment: datetime) -> datetime:
    """Return a moment with a time zone: if it has none, with that of the project."""
    if timezone.is_aware(moment):
        return moment
    made: datetime = timezone.make_aware(moment, timezone.get_default_timezone())
    return made


def project_time(moment: datetime | None) -> datetime | None:
    """Return a moment as the project has it: without a time zone if its ``USE_TZ`` is False."""
    if moment is None:
        return None
    if settings.USE_TZ:
        return aware(moment)
    if timezone.is_naive(moment):
        return moment
    made: datetime = timezone.make_naive(moment, timezone.get_default_timezone())
    return made
