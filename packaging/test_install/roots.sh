# shellcheck shell=bash
# Whole roots, in which packages are installed: made, kept, entered, booted, and cut off from their power.
# A part of packaging/test_install.sh, which sets roots, work and RANDOM.

machine=""                # the process that keeps a booted root alive
isolated=--net            # empty: `inside` has this machine's network
network=--private-network # empty: a booted root has this machine's network
cpuinfo=""                # a file for the place of /proc/cpuinfo
emulated=""

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
    qemu-user-static binfmt-support arch-test gpg gpg-agent >/dev/null || cannot "the tools for it cannot be installed"
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

# What a root has besides the minimum.
# shellcheck disable=SC2054 # the commas are mmdebstrap's
declare -A packages_in=(
  [bookworm-amd64]=systemd,systemd-sysv,dbus,udev,python3,adduser,procps,zlib1g,libstdc++6
  [trixie-amd64]=python3,python3-venv,python-is-python3,ca-certificates,zlib1g,libstdc++6
  [trixie-arm64]=python3,adduser,ca-certificates,procps,zlib1g,libstdc++6
  [forky-amd64]=python3,zlib1g,libstdc++6
)

# archive RELEASE ARCH: a root as an archive below $roots
archive() {
  local archive=$roots/$1-$2.tar options=(--quiet --variant=minbase --arch="$2" --include="${packages_in[$1-$2]}")
  [ ! -e "$archive" ] || return 0
  step "making a root of $1 for $2"
  mkdir -p "$roots"
  # A mirror may keep a testing release's signed list longer than the list says it is good for.
  [ "$1" != forky ] || options+=(--aptopt='Acquire::Check-Valid-Until "false"')
  # it makes an archive of what ends in .tar, and a folder of anything else
  mmdebstrap "${options[@]}" "$1" "${archive%.tar}.part.tar" ||
    cannot "a root of $1 for $2 cannot be made"
  mv "${archive%.tar}.part.tar" "$archive"
}

# root RELEASE ARCH: a clean root in $work/root
root() {
  archive "$@"
  rm -rf --one-file-system "$work/root"
  mkdir "$work/root"
  tar -C "$work/root" -xf "$roots/$1-$2.tar"
  [ -e "$work/root/etc/hosts" ] || echo "127.0.0.1 localhost" >"$work/root/etc/hosts" # as every installed system has it
}

make_key() {
  export GNUPGHOME=$work/gpg
  mkdir -m 700 "$GNUPGHOME"
  gpg --batch --quiet --passphrase "" --quick-gen-key edgekit ed25519 sign 2>/dev/null
}

forget_key() { [ ! -d "$work/gpg" ] || gpgconf --kill all; }

# packages ARCH RELEASE FOLDER NAMES: signed, with the key beside them
packages() {
  [ -d "$work/gpg" ] || make_key
  .venv/bin/python packaging/debian/build.py --arch "$1" --release "$2" --only "$4" --sign edgekit -o "$3" >/dev/null
  gpg --batch --export edgekit >"$3/keys.gpg"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

stop() {
  [ -z "$1" ] || ! kill -TERM "$1" 2>/dev/null || until_true 30 gone "$1" || kill -KILL "$1"
}

# field PATH...: the value below these keys of the JSON document on standard input; of a list the last, whatever the key
field() { .venv/bin/python -c 'import functools, json, sys; print(functools.reduce(lambda row, key: row[-1 if isinstance(row, list) else key], sys.argv[1:], json.load(sys.stdin)))' "$@"; }

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
      DEBIAN_FRONTEND=noninteractive QEMU_CPU=cortex-a76 "$@"' inside "$work/root" "$cpuinfo" "$@"
}

put_stick() {
  rm -rf "$work/root/debs"
  cp -r "$1" "$work/root/debs"
  cp packaging/install.sh "$work/root/debs/"
}

# install FOLDER: as a person does from a stick, without a network
install() {
  put_stick "$1"
  inside EDGEKIT_SKIP_COMPILE="$emulated" sh /debs/install.sh --offline --yes --with litert,onnxruntime \
    --keyring /debs/keys.gpg >"$work/apt.log" 2>&1 || { tail -20 "$work/apt.log"; return 1; }
  rm -rf "$work/root/debs"
  audited inside
}

# audited WHERE: dpkg has nothing to say, inside or booted
audited() { [ -z "$("$1" dpkg --audit)" ] || fail "dpkg --audit has something to say"; }

# ---------------------------------------------------------------- a booted root

power_on() {
  # shellcheck disable=SC2086 # an empty option is none
  setsid systemd-nspawn --quiet --directory "$work/root" --boot $network --register=no --keep-unit \
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

# some_time SECONDS: waits for a share of them by chance
some_time() { sleep "$(awk -v most="$1" -v share="$RANDOM" 'BEGIN { print most * share / 32768 }')"; }

# interrupted SECONDS COMMAND...: begins it in the booted root and takes the power away before so many have passed
interrupted() {
  local most=$1 begun
  shift
  booted "$@" >"$work/apt.log" 2>&1 &
  begun=$!
  some_time "$most"
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
