"""A camera on HTTP: snapshots with validators, a stream of Motion JPEG, logins, stalls."""

import hashlib
import re
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


def jpeg(shade):
    return cv2.imencode(".jpg", np.full((16, 16, 3), shade, np.uint8))[1].tobytes()


class PictureServer:
    """Serves on a free port of this machine until ``close``; what it does is set by its attributes."""

    def __init__(self):
        self.shade, self.etag, self.login, self.with_length = 50, "", "", True
        self.traceparent = ""  # of each picture
        self.password = "se:cret"  # of "ann", where a login is wanted
        self.paths: list[str] = []
        self.asked, self.is_frozen = [], threading.Event()
        self.pictures_before_end, self.status = 0, 200
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner.asked.append(dict(self.headers))
                owner.paths.append(self.path)
                owner.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self.is_frozen.clear()
        self.pictures_before_end = 1
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request):
        request.close_connection = True
        if not self._may_enter(request):
            request.send_response(401)
            request.send_header("WWW-Authenticate", self.challenge)
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif self.status != 200:
            request.send_error(self.status)
        elif request.path.startswith("/stream"):
            self._stream(request)
        else:
            self._snapshot(request)

    @property
    def challenge(self):
        if self.login == "digest":
            return 'Digest realm="cam, 1", nonce="abc123", qop="auth", algorithm=SHA-256, opaque="o"'
        return 'Basic realm="cam"'

    def _may_enter(self, request):
        given = request.headers.get("Authorization", "")
        if self.login == "basic":
            return given == "Basic " + b64encode(f"ann:{self.password}".encode()).decode()
        if self.login != "digest":
            return True
        parts = dict(re.findall(r'(\w+)="?([^",]+)"?', given.replace('"cam, 1"', '"cam"')))

        def hashed(*words):
            return hashlib.sha256(":".join(words).encode()).hexdigest()

        right = hashed(
            hashed("ann", "cam, 1", self.password),
            *("abc123", parts.get("nc", ""), parts.get("cnonce", ""), "auth"),
            hashed("GET", request.path),
        )
        return parts.get("response") == right

    def _snapshot(self, request):
        body = jpeg(self.shade)
        is_known = self.etag and request.headers.get("If-None-Match") == self.etag
        request.send_response(304 if is_known else 200)
        if self.etag:
            request.send_header("ETag", self.etag)
        if self.traceparent:
            request.send_header("traceparent", self.traceparent)
        request.send_header("Content-Type", "image/jpeg")
        request.send_header("Content-Length", "0" if is_known else str(len(body)))
        request.end_headers()
        if not is_known:
            request.wfile.write(body)

    def _stream(self, request):
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=--frame")
        request.end_headers()
        count = 0
        try:
            while True:
                while self.is_frozen.is_set():
                    time.sleep(0.01)
                body = jpeg(self.shade)
                length = f"Content-Length: {len(body)}\r\n" if self.with_length else ""
                trace = f"TraceParent: {self.traceparent}\r\n" if self.traceparent else ""
                head = f"--frame\r\nContent-Type: image/jpeg\r\n{length}{trace}\r\n"
                request.wfile.write(head.encode() + body + b"\r\n")
                count += 1
                if count == self.pictures_before_end:
                    return
                time.sleep(0.02)
        except OSError:
            return
