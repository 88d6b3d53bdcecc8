#!/usr/bin/env bash
# Installs what the tests need from Debian's packages: a second broker, a real browser, a tracer of
# system calls, a C compiler, the checker of Prometheus's rules, an RTSP camera, a network that loses
# packets. Without root it changes nothing; the tests that need them then say that they were skipped, and why.
set -euo pipefail
packages=()
while read -r command package; do
  command -v "$command" >/dev/null || packages+=("$package")
done <<'END'
mosquitto mosquitto
chromium chromium
chromedriver chromium-driver
strace strace
gcc gcc
promtool prometheus
openssl openssl
ip iproute2
iptables iptables
END
# the camera: GStreamer's RTSP server in the system's Python, its encoders, and TLS
/usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0")' 2>/dev/null || packages+=(
  python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{base,good,bad,ugly} gstreamer1.0-tools glib-networking
)
[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not root or not Debian: without ${packages[*]} the tests that need them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# libc6-dev for the compiler, a font for the browser; the tests start brokers of their own
apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confdef \
  "${packages[@]}" libc6-dev fonts-dejavu-core >/dev/null
