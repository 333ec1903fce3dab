"""FastAPI as it comes: a StreamingResponse over an async generator, under uvicorn."""

from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
LINE = b"%015d\n"


@app.get("/export")
async def export(size: int) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        for start in range(0, size, 16_384):
            yield b"".join(LINE % number for number in range(start, start + 1024))

    return StreamingResponse(lines(), media_type="text/plain")
