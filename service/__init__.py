"""Weir streams tables out of a database as CSV and NDJSON in constant memory.

What somebody new has to know about the whole, on the way of a byte from the table to the client:

- `relation.py` says what a table is, `query.py` what was asked of it and how far a stream has come.
- An engine (`engines/`) has a Reader. It *cuts* ranges of keys out of an index, and *reads* each of
  them as a *page*: lines that the database itself has made, at most 16 KiB.
- `stream/pages.py` asks it for the pages of one stream in order, ahead for a client that keeps up.
- `stream/pump.py` is the loop that all is about: take a page, write it, wait for room.
- `stream/flow.py` knows one socket: when the kernel has room again, whether the client moves.

Between two pages a stream is a *cursor*, the last key, and holds no thread, connection or
transaction. So a client may take as long as it likes, and costs what `stream/bound.py` says: a
formula that is printed at start, published in `/metrics`, and enforced in `stream/admission.py`.
A row longer than a page is paid for out of a budget that all streams share, `stream/large_rows.py`.

`web/` has the routes: who may come in, what may be asked, what is refused and how. `tasks/` is the
tutorial's table, which is made in an empty database; nothing outside of it knows what a task is.
`databases.py` opens a database, `app.py` wires everything, `workers.py` runs it several times.
Imports go downward only, and `tests/test_structure.py` holds them to it.
"""

__version__ = "0.1.0"
