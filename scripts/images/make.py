#!/usr/bin/env python3
"""Makes images of the programs that Debian has installed here, without a network and without docker.

Usage: make.py DIRECTORY

Each image is an archive as of `docker save`, which `imsup load` and `docker load` take. An image has
a program with the libraries that ldd(1) names, Debian's busybox as its shell, and an entrypoint in
the style of Docker's official images (entrypoints/). An archive is made again only when something
that goes into it has changed.
"""

import fcntl
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
SHELL = (
    "[ awk basename cat chmod chown cp cut date dirname echo env false find grep head hostname id ls mkdir mv nc printf"
    " rm sed seq sleep sort stat tail test touch tr true wc wget whoami xargs"
).split()
ACCOUNTS = {"root": 0, "www": 82, "nginx": 101, "postgres": 70, "redis": 999, "app": 1000}
SKIPPED = ("/test", "/tests", "/__pycache__", "/idlelib", "/tkinter", "/lib2to3", "/ensurepip", "/pydoc_data",
           "/distutils", "/dist-packages", "/turtledemo", "/man")  # fmt: skip


def postgres_directory():
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        sys.exit("images: there is no postgres: scripts/setup.sh installs it")
    return found[-1].parent.parent


class Layer:
    """Files of one layer, in the order in which they go into its archive."""

    def __init__(self):
        self.entries = {}
        # /bin, /lib and so on are links, as on Debian: a file has one path.
        for name in ("bin", "sbin", "lib", "lib64"):
            if os.path.islink("/" + name):
                self.link("/" + name, os.readlink("/" + name))

    def _put(self, path, mode, kind, uid=0, content=b"", target=""):
        path = os.path.normpath(path).lstrip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.directory("/" + parent)
        entry = tarfile.TarInfo(path)
        entry.mode, entry.type, entry.uid, entry.gid = mode, kind, uid, uid
        entry.linkname, entry.size = target, len(content)
        self.entries[path] = (entry, content)

    def directory(self, path, mode=0o755, owner="root"):
        self._put(path, mode, tarfile.DIRTYPE, ACCOUNTS[owner])

    def text(self, path, content, mode=0o644, owner="root"):
        self._put(path, mode, tarfile.REGTYPE, ACCOUNTS[owner], content.encode())

    def link(self, path, target):
        self._put(path, 0o777, tarfile.SYMTYPE, target=target)

    def file(self, source, path=None):
        """A file of this machine with what its path leads over, and without its libraries."""
        path = real(path or source)
        if path.lstrip("/") in self.entries:
            return
        content = pathlib.Path(source).read_bytes()
        self._put(path, 0o755 if os.access(source, os.X_OK) else 0o644, tarfile.REGTYPE, content=content)

    def program(self, source, path=None):
        """A program of this machine, with its libraries."""
        self.file(source, path)
        for library in libraries(source):
            self.file(library)

    def tree(self, source):
        for directory, _, names in os.walk(source):
            if any(skip + "/" in directory + "/" for skip in SKIPPED) or "/config-" in directory:
                continue
            for name in sorted(names):
                path = os.path.join(directory, name)
                if not os.path.isfile(path):
                    continue
                with open(path, "rb") as file:
                    is_elf = file.read(4) == b"\x7fELF"
                (self.program if is_elf else self.file)(path)

    def archive(self):
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for entry, content in self.entries.values():
                archive.addfile(entry, io.BytesIO(content))
        return written.getvalue()


def real(path):
    """The path with links of its directory resolved: /lib64/x is /usr/lib64/x."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def libraries(program):
    """What the dynamic linker maps for a program; nothing for a static one."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    words = (word for line in listed.splitlines() for word in line.split())
    return [word for word in words if word.startswith("/") and os.path.isfile(word)]


def base():
    """What every image has below its own layer: a shell, accounts, and setpriv(1) to drop a user."""
    layer = Layer()
    layer.program("/bin/busybox", "/usr/bin/busybox")
    for name in SHELL:
        layer.link(f"/usr/bin/{name}", "busybox")
    # As Debian's: busybox's shell prefers its own programs to those of the PATH.
    layer.program("/usr/bin/dash")
    layer.link("/usr/bin/sh", "dash")
    layer.program("/usr/bin/setpriv")
    layer.directory("/tmp", 0o1777)
    layer.directory("/root", 0o700)
    layer.directory("/run")
    layer.link("/var/run", "/run")
    layer.directory("/var/log")
    homes = {"root": "/root", "postgres": "/var/lib/postgresql", "redis": "/data"}
    accounts = [(name, uid, homes.get(name, "/")) for name, uid in ACCOUNTS.items()]
    layer.text("/etc/passwd", "".join(f"{name}:x:{uid}:{uid}::{home}:/bin/sh\n" for name, uid, home in accounts))
    layer.text("/etc/group", "".join(f"{name}:x:{uid}:\n" for name, uid, _ in accounts))
    layer.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    for name in ("libnss_files.so.2", "libnss_dns.so.2"):
        found = f"/usr/lib/x86_64-linux-gnu/{name}"
        if os.path.exists(found):
            layer.file(found)
    return layer


def entrypoint(layer, name):
    layer.text("/usr/local/bin/docker-entrypoint.sh", (HERE / "entrypoints" / f"{name}.sh").read_text(), 0o755)
    layer.directory("/docker-entrypoint-initdb.d" if name == "postgres" else f"/docker-entrypoint.d/{name}")


def nginx():
    layer = Layer()
    layer.program("/usr/sbin/nginx")
    layer.file("/etc/nginx/mime.types")
    layer.text("/etc/nginx/nginx.conf", (HERE / "nginx.conf").read_text())
    layer.text("/usr/share/nginx/html/index.html", "nginx of an image\n")
    layer.directory("/etc/nginx/conf.d", owner="nginx")
    for directory in ("/var/cache/nginx", "/var/lib/nginx", "/var/log/nginx"):
        layer.directory(directory, owner="nginx")
    entrypoint(layer, "nginx")
    # As nginxinc/nginx-unprivileged, which starts as another user than root and listens above 1024.
    return layer, {"User": "nginx", "ExposedPorts": {"8080/tcp": {}}, "StopSignal": "SIGQUIT",
                   "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"]}  # fmt: skip


def redis():
    layer = Layer()
    layer.program("/usr/bin/redis-server")
    layer.program("/usr/bin/redis-cli")
    layer.directory("/data", owner="redis")
    entrypoint(layer, "redis")
    return layer, {"Volumes": {"/data": {}}, "WorkingDir": "/data", "ExposedPorts": {"6379/tcp": {}},
                   "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["redis-server"]}  # fmt: skip


def postgres():
    layer, directory = Layer(), postgres_directory()
    for name in ("postgres", "initdb", "pg_ctl", "psql", "pg_isready"):
        layer.program(f"{directory}/bin/{name}")
    # The server's languages that need an interpreter (and its just-in-time compiler) are 100 MB.
    for name in ("plpgsql", "dict_snowball", "libpqwalreceiver"):
        layer.program(f"{directory}/lib/{name}.so")
    layer.tree(f"/usr/share/postgresql/{directory.name}")
    layer.tree("/usr/lib/locale/C.utf8")
    for zone in ("UTC", "GMT", "Etc/UTC"):
        layer.file(os.path.realpath(f"/usr/share/zoneinfo/{zone}"), f"/usr/share/zoneinfo/{zone}")
    layer.file("/usr/share/zoneinfo/tzdata.zi")
    layer.directory("/var/lib/postgresql", owner="postgres")
    layer.directory("/var/lib/postgresql/data", 0o700, "postgres")
    layer.directory("/run/postgresql", 0o1777, "postgres")
    entrypoint(layer, "postgres")
    return layer, {"Volumes": {"/var/lib/postgresql/data": {}}, "ExposedPorts": {"5432/tcp": {}},
                   "StopSignal": "SIGINT", "Entrypoint": ["docker-entrypoint.sh"], "Cmd": ["postgres"],
                   "Env": ["PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8",
                           f"PATH=/usr/local/bin:/usr/sbin:/usr/bin:{directory}/bin"]}  # fmt: skip


def python():
    layer, directory = Layer(), postgres_directory()
    program = os.path.realpath("/usr/bin/python3")
    layer.program(program)
    layer.link("/usr/bin/python3", os.path.basename(program))
    layer.tree(f"/usr/lib/{os.path.basename(program)}")
    layer.program(f"{directory}/bin/psql")
    layer.directory("/app")
    return layer, {"User": "app", "WorkingDir": "/app", "Cmd": ["python3"], "StopSignal": "SIGINT",
                   "Env": [f"PATH=/usr/local/bin:/usr/sbin:/usr/bin:{directory}/bin", "PYTHONUNBUFFERED=1"]}  # fmt: skip


def image(name, layers, config):
    """An archive as of `docker save`: manifest.json names the configuration and the layers."""
    archives = [layer.archive() for layer in layers]
    digests = [hashlib.sha256(archive).hexdigest() for archive in archives]
    config.setdefault("Env", ["PATH=/usr/local/bin:/usr/sbin:/usr/bin"])
    document = json.dumps({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "scripts/images/make.py"}] * len(layers),
    }).encode()  # fmt: skip
    identity = hashlib.sha256(document).hexdigest()
    manifest = [{"Config": f"{identity}.json", "RepoTags": [f"imsup-demo/{name}:1"],
                 "Layers": [f"{digest}/layer.tar" for digest in digests]}]  # fmt: skip
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        parts = [(f"{identity}.json", document), ("manifest.json", json.dumps(manifest).encode())]
        parts += [(f"{digest}/layer.tar", content) for digest, content in zip(digests, archives)]
        for path, content in parts:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


IMAGES = {"nginx": nginx, "redis": redis, "postgres": postgres, "python": python}


def state():
    """What decides the images: these files, and the programs that Debian has installed."""
    hashed = hashlib.sha256()
    for path in sorted(path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        hashed.update(path.read_bytes())
    directory = postgres_directory()
    for program in ("/bin/busybox", "/usr/bin/setpriv", "/usr/sbin/nginx", "/usr/bin/redis-server", "/usr/bin/python3",
                    f"{directory}/bin/postgres", f"{directory}/bin/psql", "/lib/x86_64-linux-gnu/libc.so.6"):  # fmt: skip
        if not os.path.exists(program):
            sys.exit(f"images: there is no {program}: scripts/setup.sh installs it")
        found = os.stat(program)
        hashed.update(f"{program} {found.st_size} {found.st_mtime_ns}\n".encode())
    return hashed.hexdigest()


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make.py DIRECTORY")
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, current = directory / ".made", state()
        if stamp.exists() and stamp.read_text() == current:
            return
        below = base()
        for name, make in IMAGES.items():
            layer, config = make()
            path = directory / f"{name}.tar"
            temporary = path.with_suffix(".new")
            temporary.write_bytes(image(name, [below, layer], config))
            temporary.replace(path)
            print(f"images: {path}, {path.stat().st_size / 1e6:.0f} MB")
        stamp.write_text(current)


if __name__ == "__main__":
    main()
