"""Errors of the laboratory, beside those of the library."""

from __future__ import annotations

from eloquent.errors import EloquentError


class LabUnavailable(EloquentError, RuntimeError):
    """This machine cannot build the laboratory; the message says what is missing."""


class LinkFailed(EloquentError, RuntimeError):
    """A link of the laboratory has ended, or could not do as told, while it was in use."""
