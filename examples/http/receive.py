#!/usr/bin/env python3
"""Prints a webhook's events and refuses unsigned ones: python receive.py SECRET_FILE PORT."""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

SECRET = Path(sys.argv[1]).read_text(encoding="utf-8").strip()


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to an event that is signed, and not older than five minutes; 401 to any other."""

    def do_POST(self) -> None:
        """Check and print one event."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        unix_s = self.headers["webhook-timestamp"] or "0"
        signed = f"{self.headers['webhook-id']}.{unix_s}.".encode() + body
        digest = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        is_ours = hmac.compare_digest(self.headers["webhook-signature"] or "", f"v1,{digest}")
        if is_ours and abs(time.time() - int(unix_s)) < 300:
            event = json.loads(body)
            print(event["time"], event["type"], event["data"], flush=True)
            self.send_response(204)
        else:
            self.send_response(401)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver).serve_forever()
