"""Asks a name server in one of the ways that resolvers do, and says who answered what: `resolver.py WAY,WAY... SERVER NAME [TYPE]`.

A way is words joined by `+`: `connect`; `epoll`, `edge` (registered before the question); `bind` (port 0), `port` (a port of its own choice),
`localhost` (bound to it); `v6` (an AF_INET6 socket), `sendmsg`, `blocking`, `thread` (somebody waits in recv already), `dup`, `twice`, `tcp`, `name` (getsockname
first), `fork` (the socket is made before a fork, and used after), `then=ADDRESS` (the socket then sends to a datagram server on port 9000, which answers).
"""
import os
import random
import select
import socket
import struct
import sys
import threading

TYPES = {"A": 1, "PTR": 12, "AAAA": 28, "ANY": 255}
LIMIT = 60


def query(number, name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", TYPES[kind], 1)


def told(answer, number, name):
    """What an answer says: its code, whether it was cut off, whether the question is repeated as it was, and the addresses."""
    identifier, flags, _, count, _, _ = struct.unpack(">HHHHHH", answer[:12])
    assert identifier == number, "another question's"
    question = query(number, name, "A")[12:-4]
    at = 12
    while answer[at]:
        at += 1 + answer[at]
    at += 5
    records = []
    for _ in range(count):
        while answer[at] and answer[at] < 192:
            at += 1 + answer[at]
        at += 2 if answer[at] >= 192 else 1
        kind, _, _, length = struct.unpack(">HHIH", answer[at : at + 10])
        data = answer[at + 10 : at + 10 + length]
        at += 10 + length
        if kind in (1, 28):
            records.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, data))
        else:
            records.append(str(kind))
    echoed = answer[12 : 12 + len(question)] == question
    code = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN"}.get(flags & 15, str(flags & 15))
    return code + (" truncated" if flags & 0x200 else "") + ("" if echoed else " other question"), sorted(records)


def is_waiting(thread):
    """Whether a thread is in poll(2), which Python calls for a socket with a time limit, or recvfrom(2)."""
    with open(f"/proc/self/task/{thread}/syscall", encoding="ascii") as call:
        return call.read().split()[0] in ("7", "45")


def ask(ways, server, name, kind):
    host, port = server
    family = socket.AF_INET6 if "v6" in ways else socket.AF_INET
    if family == socket.AF_INET6 and ":" not in host:
        host = "::ffff:" + host
    number = random.randrange(65536)
    question = query(number, name, kind)
    if "tcp" in ways:
        stream = socket.create_connection((host, port), LIMIT)
        stream.sendall(struct.pack(">H", len(question)) + question)
        length = struct.unpack(">H", stream.recv(2, socket.MSG_WAITALL))[0]
        return told(stream.recv(length, socket.MSG_WAITALL), number, name), stream.getpeername()[:2]
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(None if "blocking" in ways else LIMIT)
    if "fork" in ways and os.fork() > 0:
        os.wait()
        return None
    anywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
    if "bind" in ways:
        made.bind((anywhere, 0))
    if "localhost" in ways:
        made.bind(("127.0.0.1", 0))
    if "port" in ways:
        while True:
            try:
                made.bind((anywhere, random.randrange(20000, 30000)))
                break
            except OSError:
                pass
    if "name" in ways:
        assert made.getsockname()[1] != 0 or "bind" not in ways
    poller = None
    if "epoll" in ways or "edge" in ways:
        made.setblocking(False)
        poller = select.epoll()
        poller.register(made, select.EPOLLIN | (select.EPOLLET if "edge" in ways else 0))
    second = made.dup() if "dup" in ways else None
    got = []
    if "thread" in ways:
        reader = threading.Thread(target=lambda: got.append(made.recvfrom(65535)))
        reader.start()
        while not is_waiting(reader.native_id):
            pass
    for _ in range(2 if "twice" in ways else 1):
        if "connect" in ways:
            made.connect((host, port))
            made.send(question)
        elif "sendmsg" in ways:
            made.sendmsg([question[:5], question[5:]], [], 0, (host, port))
        else:
            made.sendto(question, (host, port))
        if poller:
            assert poller.poll(LIMIT), "no event"
            poller.modify(made, select.EPOLLIN)
            answer, sender = made.recvfrom(65535)
        elif "thread" in ways:
            reader.join()
            answer, sender = got.pop()
        else:
            answer, sender = (second or made).recvfrom(65535)
    if "connect" in ways:
        assert made.getpeername() == sender, (made.getpeername(), sender)
    for then in (way.partition("=")[2] for way in ways if way.startswith("then=")):
        made.connect((then, 9000)) if "connect" in ways else None
        made.send(b"ping\n") if "connect" in ways else made.sendto(b"ping\n", (then, 9000))
        assert not poller or poller.poll(LIMIT), "no event"
        answered = made.recvfrom(65535)
        assert answered[1][:2] == (then, 9000), answered
    return told(answer, number, name), sender[:2]


def main():
    ways, host, name = sys.argv[1:4]
    for way in ways.split(","):
        parts = way.split("+")
        found = ask(parts, (host, 53), name, (sys.argv[4:] or ["A"])[0])
        if found is None:
            continue
        (code, records), sender = found
        asked = sender[0].removeprefix("::ffff:") == host and sender[1] == 53
        print(f"{code} {','.join(records)} from {'the server asked' if asked else sender}", flush=True)
        if "fork" in parts:
            os._exit(0)


main()
