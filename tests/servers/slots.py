"""Bounded, but a place is lost with each client that resets: `slots.py PORT PLACES`."""

import asyncio
import sys

from simulator.specimens.bounded import answer

SIZE = 4 * 1024 * 1024
places = int(sys.argv[2])


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global places  # noqa: PLW0603
    try:
        await reader.readuntil(b"\r\n\r\n")
        if not places:
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        else:
            places -= 1
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode())
            await answer(writer, SIZE)
            places += 1  # not in a `finally`: this is the fault
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(talk, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
