"""python3 -m http.server on the listening socket that it is started with (sd_listen_fds(3)), which that does not take over itself."""
import http.server
import socket

handler = http.server.SimpleHTTPRequestHandler
server = http.server.ThreadingHTTPServer(("", 0), handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.server_name, server.server_port = "localhost", server.socket.getsockname()[1]
server.serve_forever()
