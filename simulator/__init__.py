"""Deliberately slow readers for any HTTP server, and what they cost it."""
