"""What happens to the gateway while it is measured. Knows one program, by its process and its admin port."""

import signal
import socket
import sys
import threading
import time


class Disturbance:
    """What happens to the gateway while it is measured: a reload or a scrape each second. `took` has how long each scrape waited."""

    def __init__(self, what, entry):
        self.what, self.entry, self.over, self.took = what, entry, threading.Event(), []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        if self.what in ("reload", "scrape"):
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.thread.ident:
            self.thread.join()

    def run(self):
        while not self.over.wait(1):
            if self.what == "reload":
                self.entry.process.send_signal(signal.SIGHUP)
            else:
                began = time.monotonic()
                scrape(int(self.entry.admin))
                self.took.append(time.monotonic() - began)


def scrape(port):
    """All metrics, by hand: what the reader costs is not to be measured with them."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as conn:
        conn.sendall(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
        size, first = 0, b""
        while data := conn.recv(1 << 18):
            first, size = first or data, size + len(data)
    if b" 200 " not in first[:16]:
        sys.exit(f"/metrics answers {first[:200]!r}")
    return size
