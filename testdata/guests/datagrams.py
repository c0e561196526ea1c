"""Datagrams as ordinary programs send them.

datagrams.py serve PORT           a server on the wildcard (socketserver); answers say who asked
datagrams.py serve-from PORT      one for both families that answers from the address it was asked at (IP_PKTINFO), as DNS and QUIC servers do
datagrams.py serve-each PORT      one that connects its socket to each client and binds another for the next (DTLS, iperf3)
datagrams.py ask NAME PORT WAY... asks once in each way and prints the answer and where it came from
datagrams.py both NAME PORT OUTSIDE
                                  sends to a host and to an address outside by turns, from one socket of each kind
"""

import ctypes
import os
import socket
import socketserver
import struct
import sys

IN6 = "::ffff:"


def answer(peer, own):
    peer = f"{peer[0].removeprefix(IN6)}:{peer[1]}"
    return f"host={socket.gethostname()} pid={os.getpid()} peer={peer} own={own}\n".encode()


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        own = self.server.socket.getsockname()
        self.request[1].sendto(answer(self.client_address, f"{own[0]}:{own[1]}"), self.client_address)


def serve(port):
    with socketserver.UDPServer(("", port), Handler) as server:
        server.serve_forever()


def serve_from(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    server.bind(("::", port))
    while True:
        _, control, _, peer = server.recvmsg(2048, 256)
        info = next(data for _, kind, data in control if kind == socket.IPV6_PKTINFO)
        own = socket.inet_ntop(socket.AF_INET6, info[:16])
        server.sendmsg([answer(peer, f"{own.removeprefix(IN6)}:{port}")], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0, peer)


def serve_each(port):
    def listen():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        return server

    clients = []
    server = listen()
    while True:
        _, peer = server.recvfrom(2048)
        server.connect(peer)
        clients.append(server)
        server = listen()
        clients[-1].send(answer(peer, f"0.0.0.0:{port}"))


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    ]


def sendmmsg(client, data, to):
    name = struct.pack("=H", socket.AF_INET) + struct.pack("!H", to[1]) + socket.inet_aton(to[0]) + bytes(8)
    vector = Vector(data, len(data))
    messages = (Message * 1)(Message(name, len(name), ctypes.pointer(vector), 1))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sendmmsg(client.fileno(), messages, 1, 0) != 1:
        raise OSError(ctypes.get_errno(), "sendmmsg")
    assert messages[0].sent == len(data), messages[0].sent


def client_for(way):
    """A socket as this way wants it, and how it sends: unbound, or bound to nothing in particular as Java, libuv and Go do."""
    six = way.startswith("six-")
    client = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(60)
    way = way.removeprefix("six-")
    if way.startswith("bound-"):
        client.bind(("::" if six else "", 0))
        assert client.getsockname()[1] != 0
        way = way.removeprefix("bound-")
    return client, way, six


def ask(name, port, ways):
    address = socket.gethostbyname(name)
    for full_way in ways:
        client, way, six = client_for(full_way)
        to = (IN6 + address if six else address, port)
        if way == "sendto":
            client.sendto(b"hello\n", to)
        elif way == "sendmsg":
            client.sendmsg([b"hel", b"lo\n"], [], 0, to)
        elif way == "sendmmsg":
            sendmmsg(client, b"hello\n", to)
        elif way == "connect":
            before = client.getsockname()[1]
            client.connect(to)
            assert before in (0, client.getsockname()[1]), "the port changed"
            client.send(b"hello\n")
        else:
            sys.exit(f"{way}?")
        text, sender = client.recvfrom(2048)
        own = client.getsockname()
        shown = own[0].removeprefix(IN6)
        print(f"{full_way}: {text.decode().strip()} from={sender[0].removeprefix(IN6)}:{sender[1]} client={shown}:{own[1]}", flush=True)


def both(name, port, outside):
    """Sends outside, to the host, and outside again; the host answers in between."""
    host = (socket.gethostbyname(name), port)
    outside = (outside, 9)
    for way in ("unbound", "bound", "reconnected"):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(60)
        if way == "bound":
            client.bind(("", 0))
        client.sendto(b"out\n", outside) if way != "reconnected" else None
        if way == "reconnected":
            client.connect(host)
            client.send(b"hello\n")
        else:
            client.sendto(b"hello\n", host)
        text = client.recv(2048).decode().strip()
        if way == "reconnected":
            unspec = struct.pack("=H", socket.AF_UNSPEC) + bytes(14)
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.connect(client.fileno(), unspec, len(unspec)) == 0, os.strerror(ctypes.get_errno())
        client.sendto(b"out\n", outside)
        client.sendmsg([b"out\n"], [], 0, outside)
        print(f"{way}: {text}", flush=True)


arguments = sys.argv[1:]
if arguments[0] == "serve":
    serve(int(arguments[1]))
elif arguments[0] == "serve-from":
    serve_from(int(arguments[1]))
elif arguments[0] == "serve-each":
    serve_each(int(arguments[1]))
elif arguments[0] == "ask":
    ask(arguments[1], int(arguments[2]), arguments[3:])
elif arguments[0] == "both":
    both(arguments[1], int(arguments[2]), arguments[3])
else:
    sys.exit(__doc__)
