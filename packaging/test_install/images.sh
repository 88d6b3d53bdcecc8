# shellcheck shell=bash
# Container images, built by buildah from their Dockerfiles as they stand. No registry of images is needed: a root
# that is made here stands under the name of each base image. A part of packaging/test_install.sh.

storage() { BUILDAH_ISOLATION=chroot buildah --root "$work/storage" --runroot "$work/storage-run" "$@"; }

running="" # the shell that waits for a container
start_container() {
  contained "$@" >"$work/image.log" 2>&1 &
  running=$!
}

stop_container() { # buildah ends what it runs, and the shell ends with it
  [ -n "$running" ] || return 0
  stop "$(pgrep -P "$running")"
  wait "$running" || true
  running=""
}

free_storage() { # it is mounted
  stop_container
  [ ! -d "$work/storage" ] || { storage rm --all && umount "$work/storage/overlay"; } >/dev/null 2>&1 || true
}

# base NAME...: a root with Python and its venv module under these names; in it, what this machine trusts
base() {
  archive trixie amd64
  local container name
  container=$(storage from scratch)
  storage add --quiet "$container" "$roots/trixie-amd64.tar" / >/dev/null
  storage config --env NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt "$container"
  for name in "$@"; do storage commit --quiet "$container" "$name" >/dev/null; done
  storage rm "$container" >/dev/null
}

# image DOCKERFILE NAME
image() {
  storage bud --quiet --pull-never --network host -v /etc/hosts:/etc/hosts:ro -v /etc/ssl/certs:/etc/ssl/certs:ro \
    -f "$1" -t "$2" "$work/context" >"$work/image.log" 2>&1 || { tail -20 "$work/image.log"; fail "$1 is not built"; }
}

# begin IMAGE: a container of it in $container; its program in $entry
begin() {
  step "images: $1, used as its own user"
  container=$(storage from --pull-never "localhost/$1")
  entry=$(storage inspect --format '{{index .OCIv1.Config.Entrypoint 0}}' "$container")
}

contained() { storage run "$container" -- "$entry" "$@"; }
in_image() { # edgekit ARGUMENTS...
  shift
  contained "$@"
}

put() { storage copy --quiet "$container" "$1" "$2" >/dev/null; }

test_images() {
  step "images: built"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends buildah >/dev/null ||
    cannot "buildah cannot be installed"
  # What stands in for the l4t base, which is in NVIDIA's registry alone, has no JetPack and is no arm64.
  base docker.io/library/python:3.13-slim nvcr.io/nvidia/l4t-jetpack:r36.4.0
  mkdir "$work/context"
  git ls-files -z | xargs -0 cp --parents -t "$work/context"
  image packaging/docker/agent.Dockerfile edgekit
  image packaging/docker/agent-jetson.Dockerfile edgekit-jetson
  image fleet/deploy/Dockerfile edgekit-fleet
  build_bundle
  local container entry
  use_agent edgekit
  use_agent edgekit-jetson
  use_fleet
}

use_agent() {
  begin "$1"
  contained doctor >"$work/doctor.log" || { cat "$work/doctor.log"; fail "doctor"; }
  grep "build the image with openvino" "$work/doctor.log" || fail "doctor does not say how the image gets a runtime"
  contained agent run >"$work/image.log" 2>&1 || true
  grep "/etc/edgekit/agent.toml: cannot be read" "$work/image.log" || fail "it does not say that it has no configuration"
  put "$work"/bundles/imu-exercise-* /srv/imu
  contained verify /srv/imu >/dev/null || fail "verify"
  pipeline "$work/wrist.toml"
  put "$work/wrist.toml" /etc/edgekit/wrist.toml
  printf '[[pipeline]]\nfile = "wrist.toml"\n' >"$work/agent.toml"
  put "$work/agent.toml" /etc/edgekit/agent.toml
  start_container agent run
  device=in_image
  until_true 60 runs || { cat "$work/image.log"; fail "no frame"; }
  stop_container
}

use_fleet() {
  begin edgekit-fleet
  start_container serve --data /var/lib/edgekit-fleet --port 0 --broker-port 0
  until_true 60 contained devices --data /var/lib/edgekit-fleet 2>/dev/null || { cat "$work/image.log"; fail "it does not serve"; }
  stop_container
}
