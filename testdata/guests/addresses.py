"""Which socket of a program is reached at which of its own addresses. What is printed must be the same natively and supervised.

addresses.py families OWN            two sockets with one port, of IPv4 and IPv6, the first port the kernel's choice
addresses.py clients OWN BASE        every listener asked by every client; explicit ports count from BASE
addresses.py receive PORT            prints the datagrams that come to a port of localhost and the wildcard, and who sent them

OWN is an address of the machine's that is not 127.0.0.1.
"""

import errno
import itertools
import select
import socket
import sys

LOCAL4, ANY4, LOCAL6, ANY6, ONLY6 = "127.0.0.1", "0.0.0.0", "::1", "::", ":: only"
V4, V6 = (LOCAL4, ANY4), (LOCAL6, ANY6, ONLY6)
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
LIMIT_S = 30
# How long nothing must come for nothing to have come: loopback delivers within the send.
QUIET_S = 0.05


def name_of(error):
    return errno.errorcode.get(error.errno, repr(error))


def make(kind, address):
    six = ":" in address
    made = socket.socket(socket.AF_INET6 if six else socket.AF_INET, KINDS[kind])
    if six:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address == ONLY6)
    made.settimeout(LIMIT_S)
    return made


def bind(made, address, port):
    made.bind((address.removesuffix(" only"), port))


def bind_free(made, address, port):
    """Binds the first free port from this one on."""
    while True:
        try:
            bind(made, address, port)
            return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            port += 1


def serve(kind, listener, port):
    """A socket at the first free port from this one on, or at one of the kernel's choice for 0, and that port. That a port is free is certain only once the
    socket listens: until then another program's may have it as well (SO_REUSEADDR)."""
    while True:
        server = make(kind, listener)
        if port == 0:
            bind(server, listener, 0)
        else:
            port = bind_free(server, listener, port)
        try:
            if kind == "tcp":
                server.listen()
            return server, server.getsockname()[1]
        except OSError as error:
            server.close()
            if error.errno != errno.EADDRINUSE:
                raise
            port += port != 0


def shown(address):
    return address[0]


# One port on both families.


def reach(kind, to, port, sockets):
    """Which of the sockets a client reaches at an address, and whether it is answered."""
    client = make(kind, to)
    try:
        if kind == "udp":
            client.sendto(b"ask", (to, port))
        else:
            client.connect((to, port))
    except OSError as error:
        client.close()
        return name_of(error)
    ready, _, _ = select.select(list(sockets.values()), [], [], QUIET_S)
    reached = [name for name, made in sockets.items() if made in ready]
    if len(reached) != 1:
        client.close()
        return f"reaches {reached}"
    server = sockets[reached[0]]
    if kind == "udp":
        data, peer = server.recvfrom(100)
        try:
            server.sendto(b"answer to " + data, peer)
        except OSError as error:
            client.close()
            return f"{reached[0]}, which cannot answer: {name_of(error)}"
    else:
        taken, _ = server.accept()
        taken.sendall(b"answer")
        taken.close()
    try:
        answer = client.recv(100).decode()
    except OSError as error:
        answer = name_of(error)
    client.close()
    return f"{reached[0]}, {answer}"


def pair(kind, first, second, option, listens_first, own):
    sockets = {"first": make(kind, first), "second": make(kind, second)}
    said = []
    port = 0
    for (which, made), address in zip(list(sockets.items()), (first, second)):
        if option is not None:
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            bind(made, address, port)
            port = made.getsockname()[1]
            if kind == "tcp" and listens_first:
                made.listen()
        except OSError as error:
            said.append(f"{which} bind: {name_of(error)}")
            sockets.pop(which).close()
            continue
        said.append(f"{which} is at {shown(made.getsockname())}, " + ("the same port" if made.getsockname()[1] == port else "another port"))
    for which, made in list(sockets.items()):
        if kind == "tcp" and not listens_first:
            try:
                made.listen()
            except OSError as error:
                said.append(f"{which} listen: {name_of(error)}")
                sockets.pop(which).close()
    for to in (LOCAL4, LOCAL6, own):
        said.append(f"{'own' if to == own else to}: {reach(kind, to, port, sockets)}")
    for made in sockets.values():
        made.close()
    return said


def families(own):
    options = {"plain": None, "reuseaddr": socket.SO_REUSEADDR, "reuseport": socket.SO_REUSEPORT}
    orders = [*itertools.product(V4, V6), *itertools.product(V6, V4)]
    for kind, (first, second), (option, value) in itertools.product(KINDS, orders, options.items()):
        for listens_first in (False, True) if kind == "tcp" else (False,):
            said = pair(kind, first, second, value, listens_first, own)
            print(f"{kind} {first}, then {second} {option}{' listening' if listens_first else ''} -> " + "; ".join(said), flush=True)


# Every client and every listener.


def ask(kind, server, client, to, port, ways):
    try:
        if kind == "tcp" or "connect" in ways:
            client.connect((to, port))
        if kind == "tcp":
            taken, _ = server.accept()
            taken.settimeout(LIMIT_S)
        if kind == "udp":
            client.send(b"ask") if "connect" in ways else client.sendto(b"ask", (to, port))
            ready, _, _ = select.select([server], [], [], QUIET_S)
            if not ready:
                return "nothing arrives"
            data, peer = server.recvfrom(100)
            server.sendto(b"answer to " + data, peer)
            # A second one, to where the first came from.
            client.send(b"again") if "connect" in ways else client.sendto(b"again", (to, port))
            ready, _, _ = select.select([server], [], [], QUIET_S)
            if not ready:
                return "nothing arrives the second time"
            said = [client.recv(100).decode(), server.recv(100).decode()]
        else:
            client.sendall(b"ask")
            taken.sendall(b"answer to " + taken.recv(100))
            said = [client.recv(100).decode()]
            if to == LOCAL4:
                said += [f"accepted {shown(taken.getsockname())} client's peer {shown(client.getpeername())}"]
                same = taken.getpeername()[1] == client.getsockname()[1]
                said += ["ports agree" if same else "ports differ"]
            taken.close()
        return ", ".join(said)
    except OSError as error:
        return name_of(error)


def clients(own, base):
    listeners = (LOCAL4, ANY4, LOCAL6, ANY6, ONLY6)
    port = base
    for kind, listener, explicit in itertools.product(KINDS, listeners, (False, True)):
        for to, bound in itertools.product((LOCAL4, LOCAL6, own), ("unbound", "local", "any", "only")):
            if bound == "only" and ":" not in to:
                continue
            # Natively the answer comes from another address than the one that was asked (deviation "own-source").
            if to == own and kind == "udp":
                continue
            own_address = {
                "unbound": to,
                "local": LOCAL6 if ":" in to else LOCAL4,
                "any": ANY6 if ":" in to else ANY4,
                "only": ONLY6,
            }[bound]
            for looks, ways in itertools.product((False, True), (("connect",), ("send",)) if kind == "udp" else (("connect",),)):
                if bound == "unbound" and looks:
                    continue
                server, bound_to = serve(kind, listener, port + 1 if explicit else 0)
                port = bound_to if explicit else port
                client = make(kind, own_address)
                if bound != "unbound":
                    bind(client, own_address, 0)
                before = client.getsockname()[1] if looks else None
                said = ask(kind, server, client, to, bound_to, ways)
                if looks:
                    said += ", same port" if client.getsockname()[1] == before else ", another port"
                if bound == "local":
                    said += f", client at {shown(client.getsockname())}"
                client.close()
                server.close()
                print(
                    f"{kind} listener {listener} {'explicit' if explicit else 'port 0'}, client {bound}{' looks' if looks else ''} "
                    f"{ways[0]} to {'own' if to == own else to} -> {said}",
                    flush=True,
                )


def receive(port):
    receiver = make("udp", ANY4)
    receiver.settimeout(None)
    bind(receiver, ANY4, port)
    while True:
        data, peer = receiver.recvfrom(2048)
        print(f"from {shown(peer)}: {data.decode().strip()}", flush=True)


if __name__ == "__main__":
    own = sys.argv[2]
    if sys.argv[1] == "receive":
        receive(int(own))
    if own == "name":
        own = socket.gethostbyname(socket.gethostname())
    if sys.argv[1] == "families":
        families(own)
    else:
        clients(own, int(sys.argv[3]))
