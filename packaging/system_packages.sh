#!/usr/bin/env bash
# Installs what the tests need from Debian's packages: a second broker and a real browser.
# Without root it changes nothing; the tests that need them then say that they were skipped, and why.
set -euo pipefail
packages=()
command -v mosquitto >/dev/null || packages+=(mosquitto)
command -v chromium >/dev/null || packages+=(chromium)
command -v chromedriver >/dev/null || packages+=(chromium-driver)
[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not root or not Debian: without ${packages[*]} the tests that need them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# mosquitto's package starts a broker on the standard port; the tests start their own
apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confdef "${packages[@]}" >/dev/null
