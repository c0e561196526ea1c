"""The shop's two stores, with nothing but Python's own library: redis, and postgres by psql(1)."""

import os
import pathlib
import socket
import subprocess
import time


class Redis:
    def __init__(self):
        host, port = os.environ["REDIS"].split(":")
        self.stream = socket.create_connection((host, int(port))).makefile("rwb")

    def call(self, *words):
        self.stream.write(b"*%d\r\n" % len(words))
        for word in (str(word).encode() for word in words):
            self.stream.write(b"$%d\r\n%s\r\n" % (len(word), word))
        self.stream.flush()
        return self.reply()

    def reply(self):
        line = self.stream.readline()
        if not line:
            raise ConnectionError("redis is gone")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"$":
            return None if rest == "-1" else self.stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"-":
            raise RuntimeError(rest)
        return rest


def sql(statement):
    password = pathlib.Path("/run/secrets/password").read_text().strip()
    command = ["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement]
    environment = {**os.environ, "PGPASSWORD": password}
    while True:
        finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        # 2: no connection. A server that was just started listens before it answers.
        if finished.returncode != 2:
            finished.check_returncode()
            return finished.stdout.strip()
        time.sleep(0.1)
