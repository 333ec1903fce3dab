"""Weir streams tables out of a database as CSV and NDJSON in constant memory."""

__version__ = "0.1.0"
