"""The one error that every decoder in this room raises."""

from __future__ import annotations


class MalformedMessage(ValueError):
    """The remote party sent bytes that no conforming sender produces."""
