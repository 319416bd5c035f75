"""Decisions on studies against a gold standard: read, matched by name, judged with intervals, and told."""
