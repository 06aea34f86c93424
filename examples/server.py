"""Serve answers on UDP: python server.py PORT

The keys are those of `eloquent keys new`. Prints a ticket for `client.py`, where a real application
would hand tickets to its users over HTTPS, as `fastapi_app.py` does.
"""

import asyncio
import sys

import eloquent
from eloquent.replay import default_text, replay


async def answer(stream: eloquent.ServerStream) -> None:
    prompt = await stream.prompt()
    await stream.send(f"{stream.claims['sub']} asked: {prompt!r}\n\n")
    async for token in replay(default_text(), rate=40, jitter=0.3):  # Your model's stream goes here.
        await stream.send(token)


async def main(port: int) -> None:
    async with eloquent.serve(answer, "127.0.0.1", port) as server:
        print(server.issue({"sub": "alice"}), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
