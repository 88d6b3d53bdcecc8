"""A small ONVIF camera for the tests: it answers a probe by UDP, and questions by SOAP with a digest."""

import base64
import hashlib
import http.server
import re
import socket
import threading

MATCH = """<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope" xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery">
<e:Body><d:ProbeMatches><d:ProbeMatch><d:Scopes>onvif://www.onvif.org/name/Door%20West
onvif://www.onvif.org/hardware/IPC-9</d:Scopes><d:XAddrs>{xaddrs}</d:XAddrs></d:ProbeMatch></d:ProbeMatches></e:Body></e:Envelope>"""
BODY = '<e:Envelope xmlns:e="http://www.w3.org/2003/05/soap-envelope"><e:Body>{body}</e:Body></e:Envelope>'
PROFILE = (
    '<Profiles token="{token}&amp;"><VideoEncoderConfiguration><Encoding>{codec}</Encoding><Resolution>'
    "<Width>{width}</Width><Height>{height}</Height></Resolution></VideoEncoderConfiguration></Profiles>"
)


class Responder:
    """``streams``: rows of (token, codec, width, height, uri). ``answer``: what every question gets."""

    def __init__(self, streams=(), user="", password="", xaddrs=None, match=None, answer=None):
        self.streams, self.user, self.password = streams, user, password
        self.questions, self.answer = [], answer
        responder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                question = self.rfile.read(int(self.headers["Content-Length"])).decode()
                responder.questions.append(question)
                status, body = responder.answered(question)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    return

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.port = self._udp.getsockname()[1]
        text = MATCH.format(xaddrs=xaddrs or f"http://203.0.113.9/x {self.base}/device")
        self._match = text.encode() if match is None else match
        self._threads = [threading.Thread(target=f) for f in (self._http.serve_forever, self._probes)]
        for thread in self._threads:
            thread.start()

    def _probes(self):
        while True:
            data, sender = self._udp.recvfrom(65536)
            if data == b"end":
                return
            assert b"NetworkVideoTransmitter" in data
            self._udp.sendto(self._match, sender)

    def answered(self, question):
        if self.answer is not None:
            return 200, self.answer
        if "GetSystemDateAndTime" in question:
            date = "<Date><Year>2020</Year><Month>2</Month><Day>3</Day></Date>"
            time = "<Time><Hour>4</Hour><Minute>5</Minute><Second>6</Second></Time>"
            return 200, BODY.format(body=f"<UTCDateTime>{time}{date}</UTCDateTime>").encode()
        if self.user and not self._is_right(question):
            return 400, b"<Fault>ter:NotAuthorized</Fault>"
        if "GetCapabilities" in question:
            body = f"<Media><XAddr>{self.base}/media</XAddr></Media>"
        elif "GetProfiles" in question:
            body = "".join(
                PROFILE.format(token=t, codec=c, width=w, height=h) for t, c, w, h, _ in self.streams
            )
        else:
            token = re.search(r"<ProfileToken>(\w+)&amp;<", question).group(1)
            body = f"<Uri>{next(row[4] for row in self.streams if row[0] == token)}</Uri>"
        return 200, BODY.format(body=body).encode()

    def _is_right(self, question):
        value = lambda name: (re.search(rf"<{name}[^>]*>([^<]*)</{name}>", question) or [None, ""])[1]
        created = value("Created")
        secret = base64.b64decode(value("Nonce")) + created.encode() + self.password.encode()
        digest = base64.b64encode(hashlib.sha1(secret).digest()).decode()
        return created.startswith("2020-02-03T04:05") and (value("Username"), value("Password")) == (
            self.user,
            digest,
        )

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._udp.sendto(b"end", self._udp.getsockname())
        for thread in self._threads:
            thread.join()
        self._udp.close()
