"""Ask one question: python client.py TICKET QUESTION"""

import asyncio
import sys

import eloquent
from eloquent.errors import ConnectError, StreamError


async def main(ticket: str, question: str) -> None:
    async with eloquent.connect(ticket) as connection, connection.ask(question) as reply:
        async for text in reply.text():
            print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    except (ConnectError, StreamError) as error:
        sys.exit(f"\n{error}")
