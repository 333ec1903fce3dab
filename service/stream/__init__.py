"""One stream: pages in, an awaited write out, within a bound. Knows nothing of HTTP routes."""
