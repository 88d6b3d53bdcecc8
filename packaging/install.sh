#!/bin/sh
# Installs edgekit's Debian packages on this board: finds out what it is, says what it is going to do, does it.
#
#   sh install.sh [--from DIR|URL] [--with RUNTIME,...] [--fleet] [--keyring FILE] [--offline] [--yes] [--dry-run]
#
# --from     where the packages and their SHA256SUMS are: a folder, a stick, or an https address; default: the
#            folder of this script
# --with     the runtimes: litert, onnxruntime, openvino; default: those that fit the board
# --fleet    installs the fleet manager in place of the agent
# --keyring  OpenPGP keys (a file as gpg --export writes it): one of them must have signed SHA256SUMS
# --offline  takes nothing from the network: what the packages depend on must be installed
# --yes      asks nothing
# --dry-run  changes nothing, and needs no root
# --root     looks at the board whose files are below a folder, as `edgekit doctor --dump` writes them
#
# It adds no repository and installs no driver: it says which ones are missing, and where they come from.
# Exit codes: 0 done, 2 usage, 3 nothing fits this system, 6 a package is not the one that SHA256SUMS lists,
# 7 nothing can be fetched.
set -eu

from="" runtimes="" keyring="" root="" offline="" yes="" dry="" product=edgekit scratch=""
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT

fail() { # CODE MESSAGE FIX
  printf 'install.sh: %s\n' "$2" >&2
  [ -z "${3:-}" ] || printf '  fix: %s\n' "$3" >&2
  exit "$1"
}

say() { printf '  %-11s %s\n' "$1" "$2"; }

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
    --from | --with | --keyring | --root)
      [ $# -gt 1 ] || fail 2 "$1 wants a value" "sh install.sh --help"
      case $1 in
      --from) from=$2 ;;
      --with) runtimes=$(printf %s "$2" | tr , ' ') ;;
      --keyring) keyring=$2 ;;
      --root) root=${2%/} ;;
      esac
      shift
      ;;
    --fleet) product=edgekit-fleet ;;
    --offline) offline=yes ;;
    --yes | -y) yes=yes ;;
    --dry-run) dry=yes ;;
    --help | -h)
      sed -n '2,/^set -eu/{s/^# \{0,1\}//;/^set -eu/!p;}' "$0"
      exit 0
      ;;
    *) fail 2 "unknown option $1" "sh install.sh --help" ;;
    esac
    shift
  done
  for name in $runtimes; do
    case $name in
    litert | onnxruntime | openvino) ;;
    *) fail 2 "--with: there is no runtime $name" "litert, onnxruntime, openvino" ;;
    esac
  done
  [ -z "$root" ] || [ "$dry" ] || fail 2 "--root is for --dry-run: another board's files cannot be installed to"
}

# ------------------------------------------------------------------ what this is

text() { [ ! -r "$root$1" ] || tr -d '\000' <"$root$1"; } # a file of the board, or nothing
release() { sed -n "s/^$1=//p" "$root/etc/os-release" 2>/dev/null | tr -d '"'; }
any() { for path in "$@"; do [ ! -e "$path" ] || return 0; done; return 1; }

on_usb() { # VENDOR:PRODUCT...
  for device in "$root"/sys/bus/usb/devices/*; do
    [ -r "$device/idVendor" ] || continue
    found=$(cat "$device/idVendor"):$(cat "$device/idProduct")
    for id in "$@"; do [ "$found" != "$id" ] || return 0; done
  done
  return 1
}

on_pci() { # VENDOR:DEVICE...
  for device in "$root"/sys/bus/pci/devices/*; do
    [ -r "$device/vendor" ] || continue
    found=$(cat "$device/vendor"):$(cat "$device/device")
    for id in "$@"; do [ "$found" != "$id" ] || return 0; done
  done
  return 1
}

library() { # NAME: whether the linker would find it
  any "$root"/usr/lib/*-linux-gnu/"$1" "$root"/usr/lib/*-linux-gnu/*/"$1" "$root/usr/lib/$1" "$root/usr/local/lib/$1"
}

find_board() {
  model=$(text /proc/device-tree/model)
  compatible=""
  [ ! -r "$root/proc/device-tree/compatible" ] || compatible=$(tr '\000' ' ' <"$root/proc/device-tree/compatible")
  board=${model:-$(text /sys/class/dmi/id/sys_vendor) $(text /sys/class/dmi/id/product_name)}
  board=${board# }
  if [ -n "$root" ]; then
    case $(text /proc/sys/kernel/arch) in aarch64) arch=arm64 ;; x86_64) arch=amd64 ;; *) arch=unknown ;; esac
  else
    arch=$(dpkg --print-architecture 2>/dev/null || echo unknown)
  fi
  system=$(release PRETTY_NAME)
  codename=$(release UBUNTU_CODENAME)
  [ -n "$codename" ] || codename=$(release VERSION_CODENAME)
}

# The suffix of the packages' version, as in packaging/debian/packages.py.
find_release() {
  case $arch in
  amd64 | arm64) ;;
  armhf | armel | i386) fail 3 "this system is 32-bit ($arch), and the runtimes are 64-bit only" "install the board's 64-bit image" ;;
  *) fail 3 "there are no packages for $arch" "on other systems: a wheel, see docs/install.md" ;;
  esac
  case $codename in
  bookworm) suffix=deb12 ;;
  trixie) suffix=deb13 ;;
  jammy) suffix=ubuntu22.04 ;;
  noble) suffix=ubuntu24.04 ;;
  *)
    fail 3 "there are no packages for ${system:-this system}; they are for Debian 12 and 13, Raspberry Pi OS, Ubuntu 22.04 and 24.04" \
      "on other systems: a wheel, see docs/install.md"
    ;;
  esac
}

choose_runtimes() {
  [ "$product" = edgekit ] || {
    runtimes=""
    return
  }
  [ -z "$runtimes" ] || return 0
  runtimes=litert
  case $compatible in *nvidia,tegra*) runtimes="litert onnxruntime" ;; esac
  if [ "$arch" = amd64 ] && grep -qs GenuineIntel "$root/proc/cpuinfo"; then runtimes="litert openvino"; fi
}

# ------------------------------------------------------------------ where the packages are

newest() { # NAME: the file name of the newest package for this release
  # shellcheck disable=SC2086 # one name a word: a package's file has no blanks
  printf '%s\n' $listed | grep "^$1_.*~${suffix}_${arch}\.deb$" | sort -V | tail -1
}

list_packages() {
  [ -n "$from" ] || from=$(cd "$(dirname "$0")" && pwd)
  case $from in
  https://*) list_address ;;
  http://*) fail 2 "--from $from: only https is taken" ;;
  *)
    [ -d "$from" ] || fail 3 "--from $from: there is no such folder"
    listed=$(cd "$from" && ls)
    sums=$from/SHA256SUMS
    ;;
  esac
  files=""
  for name in "$product" $(for runtime in $runtimes; do echo "edgekit-$runtime"; done); do
    file=$(newest "$name")
    [ -n "$file" ] || fail 3 "$from has no package ${name}_*~${suffix}_$arch.deb" \
      "build it in a checkout, as docs/install.md says: .venv/bin/python packaging/debian/build.py --arch $arch --release $codename -o dist; or name its folder with --from"
    files="$files $file"
  done
}

list_address() {
  [ -z "$offline" ] || fail 2 "--offline and --from $from exclude each other"
  scratch=$(mktemp -d)
  fetch SHA256SUMS
  [ -z "$keyring" ] || fetch SHA256SUMS.gpg
  sums=$scratch/SHA256SUMS
  listed=$(sed 's/^[0-9a-f]* [ *]//' "$sums")
}

fetch() { # NAME
  if command -v curl >/dev/null; then
    curl -fsS --proto '=https' --retry 2 -o "$scratch/$1" "${from%/}/$1"
  else
    wget -q --https-only -O "$scratch/$1" "${from%/}/$1"
  fi || fail 7 "${from%/}/$1 cannot be fetched" "look at the address and the network, or copy the packages here and name their folder with --from"
}

check_signature() {
  [ -n "$keyring" ] || return 0
  [ -r "$sums.gpg" ] || fail 6 "$from has no SHA256SUMS.gpg, and --keyring wants one" "build the packages with --sign"
  if command -v gpgv >/dev/null; then
    gpgv --quiet --keyring "$(readlink -f "$keyring")" "$sums.gpg" "$sums" >/dev/null 2>&1
  elif command -v sqv >/dev/null; then
    sqv --keyring "$keyring" "$sums.gpg" "$sums" >/dev/null
  else
    fail 3 "neither gpgv nor sqv is installed, so the signature cannot be checked" "apt-get install gpgv"
  fi || fail 6 "SHA256SUMS of $from is not signed by a key in $keyring" "do not install these packages"
}

check_packages() { # FOLDER
  [ -r "$sums" ] || fail 6 "$from has no SHA256SUMS" "copy it too: packaging/debian/build.py writes it beside the packages"
  for file in $files; do
    want=$(sed -n "s/^\([0-9a-f]\{64\}\) [ *]$file\$/\1/p" "$sums")
    [ -n "$want" ] || fail 6 "SHA256SUMS does not list $file" "copy packages and SHA256SUMS of one build"
    [ "$(sha256sum <"$1/$file" | cut -d' ' -f1)" = "$want" ] || fail 6 "$file is not the one that SHA256SUMS lists" "copy it again"
  done
}

# ------------------------------------------------------------------ what is missing besides

hint() { printf '  - %s\n' "$1"; }

hints() {
  if on_usb 1a6e:089a 18d1:9302 || on_pci 0x1ac1:0x089a; then
    library libedgetpu.so.1 || hint "Coral: libedgetpu.so.1 is missing. Debian has no package of it; it must be built for the LiteRT that loads it (docs/hardware/coral-usb.md)."
  fi
  if on_pci 0x1ac1:0x089a && ! any "$root"/dev/apex_*; then
    hint "Coral on PCIe: no /dev/apex_0, so the gasket driver is not loaded (docs/hardware/coral-dev-board.md)."
  fi
  case $compatible in *nvidia,tegra*)
    any "$root"/usr/lib/python3*/dist-packages/tensorrt "$root"/usr/lib/*-linux-gnu/libnvinfer.so.* ||
      hint "Jetson: TensorRT is missing. It comes with JetPack: sudo apt install nvidia-jetpack (docs/hardware/jetson-orin.md)."
    hint "Jetson: the public ONNX Runtime runs on the CPU only here; the GPU is used through JetPack's TensorRT (docs/hardware/jetson-orin.md)."
    ;;
  esac
  if any "$root"/sys/class/accel/accel*/device/driver && [ "$arch" = amd64 ]; then
    library 'libze_intel_npu.so.1' || hint "Intel NPU: its user-mode driver (libze_intel_npu.so.1) is missing; Intel publishes it as a Debian package (docs/hardware/intel.md)."
  fi
  if grep -qs 0x8086 "$root"/sys/class/drm/renderD*/device/vendor; then
    any "$root"/etc/OpenCL/vendors/*.icd || hint "Intel GPU: no OpenCL driver: sudo apt install intel-opencl-icd (docs/hardware/intel.md)."
  fi
  case $board in *'Raspberry Pi'*)
    hint "Raspberry Pi: a USB camera works as it is; for one on the ribbon cable see docs/hardware/raspberry-pi-5.md."
    ;;
  esac
}

plan() {
  echo "edgekit: what is going to be done"
  say board "${board:-unknown} ($arch)"
  say system "$system"
  say packages "$from"
  for file in $files; do say "" "$file"; done
  if [ "$offline" ]; then
    say network "none: what they depend on must be installed"
  else
    say network "only the repositories that apt knows, for what they depend on"
  fi
  if [ "$product" = edgekit ]; then
    say afterwards "user edgekit, service edgekit-agent, which waits until /etc/edgekit/agent.toml names a pipeline"
  else
    say afterwards "user edgekit-fleet, service edgekit-fleet, which is not started"
  fi
  hinted=$(hints)
  [ -z "$hinted" ] || printf 'not done by this script:\n%s\n' "$hinted"
}

agree() {
  [ -z "$yes" ] || return 0
  [ -r /dev/tty ] && [ -t 1 ] || fail 2 "there is nobody to ask" "add --yes"
  printf 'go on? [y/N] '
  read -r answer </dev/tty
  case $answer in y | Y | yes) ;; *) fail 2 "nothing was changed" ;; esac
}

apply() {
  folder=$from
  if [ -n "$scratch" ]; then
    for file in $files; do fetch "$file"; done
    folder=$scratch
  fi
  check_packages "$folder"
  set --
  for file in $files; do set -- "$@" "$folder/$file"; done
  [ -z "$scratch" ] || chmod 755 "$scratch" # apt reads them as the user _apt
  [ -n "$offline" ] || apt-get update -qq || echo "install.sh: the package lists cannot be refreshed; going on with those that are here" >&2
  # a power loss during an installation leaves a journal, and apt refuses to go on until dpkg has played it
  DEBIAN_FRONTEND=noninteractive dpkg --configure -a ||
    echo "install.sh: dpkg could not finish what was interrupted; going on" >&2
  if [ -n "$offline" ]; then set -- -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/dev/null "$@"; fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" ||
    fail 3 "apt could not install them, see above" "${offline:+install what they depend on first, or leave --offline out}"
}

next_steps() {
  if [ "$product" = edgekit ]; then
    cat <<'END'
installed. Next:
  sudo edgekit doctor                        what this board has, what runs on it, what to mend
  sudo editor /etc/edgekit/agent.toml        name a pipeline, then: sudo systemctl restart edgekit-agent
  sudo -u edgekit edgekit agent enroll --fleet URL --token T
END
  else
    echo "installed. Next: sudo systemctl enable --now edgekit-fleet"
  fi
}

parse "$@"
find_board
find_release
choose_runtimes
list_packages
check_signature
plan
if [ "$dry" ]; then
  [ -n "$scratch" ] || check_packages "$from"
  echo "--dry-run: nothing was changed"
  exit 0
fi
[ "$(id -u)" = 0 ] || fail 2 "installing packages needs root" "sudo sh install.sh ..."
agree
apply
next_steps
