"""Carrying out plans: samples, brackets, scans (docs/protocol/plans.md)."""
