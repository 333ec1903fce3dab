"""Tables of any PostgreSQL database: which there are, and their rows as lines, by COPY."""
