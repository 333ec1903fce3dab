"""An endless-enough body over TLS, with awaited writes: `tls_stream.py PORT CERTIFICATE KEY`."""

import asyncio
import gc
import ssl
import sys

from simulator.specimens import chunks
from simulator.specimens.bounded import bound_kernel

SIZE = 4 * 1024 * 1024


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        bound_kernel(writer)
        writer.transport.set_write_buffer_limits(16_384)  # of 0, TLS never writes again
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode())
        for chunk in chunks(SIZE):
            writer.write(chunk)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()
    await asyncio.sleep(0)
    gc.collect()  # a TLS connection of asyncio is a ring of objects with a buffer of 256 KiB


async def main(port: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(talk, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
