"""HTTP: connections, routes, who may come in, what they may ask, and how errors look."""
