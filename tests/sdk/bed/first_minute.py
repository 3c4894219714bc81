"""Starts the gateway as a newcomer does, without file and keys, and asks it something. Prints what came of it as JSON.

Meant to run in a network of its own, so that the default ports are free. Usage: python first_minute.py BINARY FOLDER
"""

import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx2  # noqa: E402

from bed.process import clean_env, until  # noqa: E402

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
ROOT = "http://127.0.0.1:4100"


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))


def everything(terminal: int) -> str:
    """What was written to a terminal whose other end is closed."""
    told = b""
    try:
        while more := os.read(terminal, 65_536):
            told += more
    except OSError:
        pass  # the way a terminal says that nobody is there any more
    return told.decode()


def main(binary: str, folder: str) -> None:
    loopback_up()
    # A terminal: to a pipe the gateway writes its log and no words of welcome.
    terminal, end = pty.openpty()
    child = subprocess.Popen([binary, "serve"], cwd=folder, env=clean_env(HOME=folder), stdout=end, stderr=end)
    os.close(end)
    with httpx2.Client(trust_env=False, timeout=5, base_url=ROOT) as http:

        def ready() -> bool:
            try:
                return http.get("/readyz").status_code == 200
            except httpx2.HTTPError:
                return child.poll() is not None

        until("the default address", ready, 20, 0.05)
        found = {"exit": child.poll()}
        if found["exit"] is None:
            found["models"] = [model["id"] for model in http.get("/v1/models").json()["data"]]
            ask = {"model": found["models"][0], "messages": [{"role": "user", "content": "Hello"}]}
            found["answer"] = http.post("/v1/chat/completions", json=ask).json()
    child.terminate()
    child.wait(10)
    found["told"] = everything(terminal)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
