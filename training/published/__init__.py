"""Minima that others trained and published, read into torch."""
