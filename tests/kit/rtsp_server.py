"""A real RTSP server whose picture is a clock, for the tests; runs in the system's Python, with GStreamer.

Prints its port once it answers. Each picture has CLOCK_MONOTONIC in milliseconds, with a checksum, as 48
black and white blocks (``rtsp_camera.burnt_ms`` reads them). The stream's time stamp is of the same instant.
"""

import argparse
import collections
import itertools
import sys
import time
import zlib

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast threads=1 bitrate=2000 key-int-max={gop} "
    "! rtph264pay name=pay0 pt=96 config-interval={interval}",
    "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} "
    "! rtph265pay name=pay0 pt=96 config-interval={interval}",
    "mjpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
    "unknown": "openjpegenc ! rtpj2kpay name=pay0 pt=96",  # FFmpeg cannot receive JPEG 2000
}


def picture(now_ns, width, height):
    """Return one grey picture of the clock, bytes of (height, width)."""
    now_ms = now_ns // 1_000_000 & 0xFFFFFFFF
    data = now_ms.to_bytes(4, "big")
    bits = now_ms << 16 | zlib.crc32(data) & 0xFFFF
    rows = []
    for row in range(6):
        byte = bits >> (40 - 8 * row) & 0xFF
        line = b"".join((b"\xff" if byte >> (7 - at) & 1 else b"\0") * (width // 8) for at in range(8))
        rows.append(line * (height // 6))
    return b"".join(rows)


def pushes(appsrc, options):
    """Paint a picture each time it is due, and push it at once or late, until the stream is torn down."""
    painted, late_ms = collections.deque(), itertools.cycle(options.late_ms)

    def push():
        return appsrc.emit("push-buffer", painted.popleft()) == Gst.FlowReturn.OK

    def push_once():
        push()
        return False

    def paint():
        now_ns = time.monotonic_ns()  # GStreamer's clock too
        buffer = Gst.Buffer.new_wrapped(picture(now_ns, options.width, options.height))
        buffer.pts = now_ns - appsrc.get_base_time()
        painted.append(buffer)
        if (wait_ms := next(late_ms)) or len(painted) > 1:
            GLib.timeout_add(wait_ms, push_once)
            return True
        return push()

    GLib.timeout_add(int(1000 / options.fps), paint)


def factory_of(options):
    """Return a factory whose one pipeline all clients share.

    As in a camera, a picture that comes while the encoder is busy takes the place of the one that waits: the
    age of what a client sees is not the encoder's on a busy machine.
    """
    encoder = ENCODERS[options.codec].format(gop=options.gop, interval=-1 if options.in_band else 0)
    caps = f"video/x-raw,format=GRAY8,width={options.width},height={options.height},framerate={options.fps}/1"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=clock is-live=true format=time caps={caps} "
        f"! queue leaky=downstream max-size-buffers=1 ! videoconvert ! video/x-raw,format=I420 ! {encoder} )"
    )
    factory.set_shared(True)
    factory.connect(
        "media-configure", lambda _, media: pushes(media.get_element().get_by_name("clock"), options)
    )
    return factory


def protect(server, factory, options):
    """Ask for a user name and password, and speak TLS where there is a certificate."""
    auth = GstRtspServer.RTSPAuth()
    if options.certificate:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(options.certificate))
    token, permissions = GstRtspServer.RTSPToken(), GstRtspServer.RTSPPermissions()
    token.set_string("media.factory.role", "user")
    for name in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("user", name, True)
    factory.set_permissions(permissions)
    if options.user:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
    else:
        auth.set_default_token(token)
    server.set_auth(auth)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", default="0")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--gop", type=int, default=12)
    parser.add_argument("--codec", default="h264")
    parser.add_argument("--late-ms", type=int, nargs="+", default=[0], help="of pictures in turn")
    parser.add_argument("--in-band", action="store_true")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--certificate", default="")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(options.host)
    server.set_service(options.port)
    factory = factory_of(options)
    if options.user or options.certificate:
        protect(server, factory, options)
    server.get_mount_points().add_factory("/door", factory)
    if not server.attach(None):
        sys.exit("the port is taken")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
