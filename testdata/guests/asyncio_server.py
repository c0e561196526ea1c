"""An ordinary asyncio server. Usage: asyncio_server.py PORT [UPSTREAM_HOST UPSTREAM_PORT]

Answers HTTP; each answer says who called, and the body the upstream answered with.
"""

import asyncio
import os
import socket
import sys


async def get(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.0\r\nHost: %s\r\n\r\n" % host.encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer.partition("\r\n\r\n")[2].strip()


async def handle(reader, writer):
    while (await reader.readline()).strip():
        pass
    peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    body = f"host={socket.gethostname()} pid={os.getpid()} peer={peer[0]}:{peer[1]} own={own[0]}:{own[1]}"
    if len(sys.argv) > 3:
        body += f" upstream=<{await get(sys.argv[2], int(sys.argv[3]))}>"
    body += "\n"
    writer.write(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(handle, None, int(sys.argv[1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
