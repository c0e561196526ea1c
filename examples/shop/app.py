"""The shop's pages: counts visits in redis, asks the price service, and answers. Standard library only."""

import os
import socket
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CACHE_HOST, CACHE_PORT = os.environ["CACHE"].split(":")
PRICES = os.environ["PRICES"]


def count_visit():
    """INCR visits, in redis's own protocol."""
    with socket.create_connection((CACHE_HOST, int(CACHE_PORT))) as cache:
        cache.sendall(b"*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n")
        return int(cache.makefile("rb").readline()[1:])


class Shop(BaseHTTPRequestHandler):
    def do_GET(self):
        with urllib.request.urlopen(PRICES) as answer:
            prices = answer.read().decode().strip()
        body = f"Welcome, visit {count_visit()}. {prices} Served by {socket.gethostname()}.\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        print(self.client_address[0], format % arguments, flush=True)


ThreadingHTTPServer(("", 8000), Shop).serve_forever()
