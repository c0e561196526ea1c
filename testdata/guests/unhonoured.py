"""Asks for what imsup does not honour, twice each: unhonoured.py WHAT [ARGUMENT]. Prints how each was answered."""

import ctypes
import errno
import os
import socket
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)


def show(what, call):
    try:
        call()
        print(f"{what}: 0")
    except OSError as error:
        print(f"{what}: {errno.errorcode[error.errno]}")


def io_uring():
    def setup():
        if libc.syscall(425, 8, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")

    for _ in range(2):
        child = os.fork()
        if child == 0:
            show("io_uring_setup", setup)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)


def fast_open():
    for _ in range(2):
        client = socket.socket()
        show("fast open", lambda: client.sendto(b"x", socket.MSG_FASTOPEN, (sys.argv[2], 9000)))


def not_dumpable():
    libc.prctl(4, 0)  # PR_SET_DUMPABLE
    for _ in range(2):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        show("bind", lambda: client.bind(("127.0.0.1", 0)))


def stranded():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", 9000))
    for _ in range(2):
        show("sendto", lambda: server.sendto(b"x", (sys.argv[2], 9)))
        show("sendmsg", lambda: server.sendmsg([b"x"], [], 0, (sys.argv[2], 9)))


def foreign_bind():
    for _ in range(2):
        show("bind", lambda: socket.socket().bind((sys.argv[2], 9000)))


def crowd():
    """More connects at once than are held: those beyond are told, the others wait until the program ends."""
    threading.stack_size(65536)
    told = threading.Event()

    def connect():
        try:
            socket.socket().connect((sys.argv[2], 9999))
        except OSError as error:
            # In one call: the lines of several threads must not run into each other.
            os.write(1, f"connect: {errno.errorcode[error.errno]}\n".encode())
        told.set()

    for _ in range(5000):
        threading.Thread(target=connect, daemon=True).start()
        if told.is_set():
            break
    told.wait()
    os._exit(0)


globals()[sys.argv[1]]()
