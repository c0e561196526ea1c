"""A web server that says which replica answers. Standard library only."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{socket.gethostname()} answers {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        print(self.client_address[0], format % arguments, flush=True)


ThreadingHTTPServer(("", 8000), App).serve_forever()
