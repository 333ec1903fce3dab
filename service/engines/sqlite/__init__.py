"""Tables of any SQLite file: which there are, and their rows as lines, many pages at a time."""
