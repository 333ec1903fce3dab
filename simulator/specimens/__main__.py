"""Serve one specimen: `python -m simulator.specimens bounded --port 8000`."""

import asyncio
import signal
from contextlib import suppress
from importlib import import_module
from urllib.parse import parse_qs, urlsplit

import click

from . import EXPECTED, Answer

DEFAULT_BYTES = 16 * 1024 * 1024
BACKLOG = 1024


@click.command()
@click.argument("name", type=click.Choice(list(EXPECTED)))
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
def main(name: str, host: str, port: int) -> None:
    """Serve the specimen NAME; `GET /?bytes=N` answers with N bytes."""
    answer: Answer = import_module("." + name.replace("-", "_"), __package__).answer
    asyncio.run(_serve(answer, host, port))


async def _serve(answer: Answer, host: str, port: int) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            query = parse_qs(urlsplit(head.split()[1].decode("latin-1")).query)
            size = int(query.get("bytes", [str(DEFAULT_BYTES)])[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n")
            writer.write(f"Content-Length: {size}\r\nConnection: close\r\n\r\n".encode())
            await answer(writer, size)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(talk, host, port, backlog=BACKLOG)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    click.echo(f"listening on port {server.sockets[0].getsockname()[1]}", err=True)
    with suppress(asyncio.CancelledError):
        await server.serve_forever()


if __name__ == "__main__":
    main()
