"""Attacks on a running server, on the wire."""
