"""A server that says something, and then a few bytes now and then without an end."""

import contextlib
import socket
import threading

STEP_S = 0.02


class DrippingServer:
    """Answers each connection with ``start``, then with ``drop`` every 20 ms until ``close``."""

    def __init__(self, start, drop=b""):
        self._start, self._drop, self._is_over = start, drop, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            connection, _ = self._listener.accept()
            if self._is_over.is_set():
                connection.close()
                return
            self._threads.append(threading.Thread(target=self._answer, args=(connection,)))
            self._threads[-1].start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(self._start)
            while self._drop and not self._is_over.wait(STEP_S):
                connection.sendall(self._drop)

    def close(self):
        self._is_over.set()
        socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads:
            thread.join()
        self._listener.close()


@contextlib.contextmanager
def dripping(start, drop=b""):
    """Yield the address of a ``DrippingServer``."""
    server = DrippingServer(start, drop)
    try:
        yield server.url
    finally:
        server.close()
