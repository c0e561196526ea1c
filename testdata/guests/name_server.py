"""A name server for tests, over UDP and TCP at each address that it is given, port 53; says `ready`.

It knows example.test (an IPv4 and an IPv6 address), v4.test, big.test (too large for UDP), alias.test, who.test (the server's own address), and the name of
192.0.2.7, and no others. Of fails.test it says SERVFAIL. late.test, asked over UDP for addresses of both families, and go.test are
answered once both were asked for, whichever comes first.
"""
import socket
import struct
import sys
import threading

A, CNAME, PTR, AAAA, ANY = 1, 5, 12, 28, 255


def records(name, kind, own):
    """The code and the records of a question to the server at this address."""
    v4, v6 = socket.inet_aton("192.0.2.7"), socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    known = {
        "example.test": [(A, v4), (AAAA, v6)],
        "who.test": [(A, socket.inet_aton(own))] if "." in own else [],
        "late.test": [(A, socket.inet_aton("192.0.2.9"))],
        "v4.test": [(A, socket.inet_aton("192.0.2.4"))],
        "big.test": [(A, bytes([192, 0, 3, last])) for last in range(100)],
        "alias.test": [(CNAME, b"\x07example\x04test\0")],
        "7.2.0.192.in-addr.arpa": [(PTR, b"\x07example\x04test\0")],
    }
    if name == "fails.test":
        return 2, []
    if name not in known:
        return 3, []
    return 0, [record for record in known[name] if kind in (record[0], ANY)]


def asked(query):
    """The name, and where it ends."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    return ".".join(labels), at


def answer(query, over_tcp, own):
    name, at = asked(query)
    question = query[12 : at + 5]
    kind = struct.unpack(">H", question[-4:-2])[0]
    code, found = records(name, kind, own)
    flags = 0x8180 | code
    body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data for kind, data in found)
    if not over_tcp and len(body) > 400:
        flags, body, found = flags | 0x200, b"", []
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0) + question + body


def over_udp(served):
    while True:
        query, client = served.recvfrom(65535)
        later = lambda query=query, client=client: served.sendto(answer(query, False, served.getsockname()[0]), client)
        name, at = asked(query)
        if name not in ("late.test", "go.test"):
            later()
            continue
        kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
        with lock:
            waiting.append((name, kind, later))
            come = {(name, kind) for name, kind, _ in waiting}
            while waiting and come >= {("late.test", A), ("late.test", AAAA), ("go.test", A)}:
                waiting.pop(0)[2]()


def over_tcp(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


def converse(connection):
    with connection:
        while len(length := connection.recv(2, socket.MSG_WAITALL)) == 2:
            said = answer(connection.recv(struct.unpack(">H", length)[0], socket.MSG_WAITALL), True, connection.getsockname()[0])
            connection.sendall(struct.pack(">H", len(said)) + said)


lock, waiting = threading.Lock(), []
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    # With the interface of a link-local one.
    there = socket.getaddrinfo(address, 53)[0][4]
    datagrams.bind(there)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(there)
    listener.listen()
    for work, on in ((over_udp, datagrams), (over_tcp, listener)):
        threading.Thread(target=work, args=(on,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
