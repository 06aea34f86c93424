"""Measures what a link does: a probe's process on each host, and what follows from their records."""
