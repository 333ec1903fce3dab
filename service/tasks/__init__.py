"""The tutorial's table, which Weir makes by itself in a new or empty database.

All that knows what a task is stands here: its columns and their limits, the tables that it lives
in, what writes to them, and made-up tasks.
"""
