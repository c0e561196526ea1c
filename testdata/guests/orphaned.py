"""A server whose processes make trapped calls all the time, and write down those that fail.

    orphaned.py PORT FILE [alone]

The first process answers each line with its own number. Beside it call: a thread of its own, and unless it is alone a child, and a grandchild in
a session of its own. FILE gets `CALL ERROR WHO` for the first call of each that fails (ENOSYS: the listener of the filter is closed).
"""

import errno
import os
import socket
import sys
import threading


def tell(file, call, error, who):
    os.write(file, f"{call} {errno.errorcode.get(error.errno, error.errno)} {who}\n".encode())


def call_until_one_fails(file, who):
    while True:
        try:
            call = "uname"
            os.uname()
            call = "bind"
            with socket.socket() as bound:
                bound.bind(("127.0.0.1", 0))
        except OSError as error:
            tell(file, call, error, who)
            return


def start(file, who, grandchild):
    if os.fork() == 0:
        if grandchild and os.fork() != 0:
            os._exit(0)
        if grandchild:
            os.setsid()
        call_until_one_fails(file, who)
        os._exit(1)


port, path = int(sys.argv[1]), sys.argv[2]
file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
listener = socket.create_server(("0.0.0.0", port))
if sys.argv[3:] != ["alone"]:
    start(file, "child", False)
    start(file, "grandchild", True)
threading.Thread(target=call_until_one_fails, args=(file, "thread"), daemon=True).start()
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(64)
        connection.sendall(f"{os.getpid()}\n".encode())
