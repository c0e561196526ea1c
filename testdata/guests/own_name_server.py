"""A program with a name server of its own on port 53 at the address that it is given, which asks it at the localhost of that family; prints what each says."""
import socket
import sys
import threading

address = sys.argv[1]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
localhost = ("::1" if ":" in address else "127.0.0.1", 53)
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((address, 53))
listener = socket.create_server((address, 53), family=family)


def over_udp():
    while True:
        query, client = datagrams.recvfrom(512)
        datagrams.sendto(query[:2] + b"own", client)


def over_tcp():
    while True:
        with listener.accept()[0] as client:
            client.sendall(client.recv(2) + b"own")


for work in (over_udp, over_tcp):
    threading.Thread(target=work, daemon=True).start()
# `own.test`, A.
question = b"\0\7\1\0\0\1\0\0\0\0\0\0\3own\4test\0\0\1\0\1"
for way in ("sendto", "connect", "tcp"):
    client = socket.socket(family, socket.SOCK_STREAM if way == "tcp" else socket.SOCK_DGRAM)
    client.settimeout(60)
    if way == "sendto":
        client.sendto(question, localhost)
    else:
        client.connect(localhost)
        client.send(question[:2] if way == "tcp" else question)
    print(way, client.recv(512))
