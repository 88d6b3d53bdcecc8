# shellcheck shell=bash
# The device's wheel on each Python that it is for and that can be had: one of this machine's (python3.X or pyenv),
# or one in a root of the Debian release that has it. A part of packaging/test_install.sh.

declare -A with_python=([3.11]=bookworm [3.13]=trixie [3.14]=forky)

# interpreter VERSION: the path of one of this machine's that works
interpreter() {
  local path
  for path in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/"python$1"; do
    if [ -x "$path" ] && "$path" -c '' 2>/dev/null; then
      echo "$path"
      return
    fi
  done
  return 1
}

# smoke VERSION RUNNER PYTHON FOLDER SEEN: an environment in FOLDER, filled from here and used by RUNNER, which sees
# the folder at SEEN
smoke() {
  local version=$1 runner=$2 python=$3 folder=$4 seen=$5
  mkdir -p "$folder"
  cp -r "$work"/bundles/imu-exercise-* "$folder/imu"
  pipeline "$folder/wrist.toml"
  sed -i "s|/srv/imu|$seen/imu|; s|/var/lib/edgekit|$seen|" "$folder/wrist.toml"
  "$runner" "$python" -m venv --without-pip "$seen/env"
  .venv/bin/uv pip install -q --only-binary :all: --python-version "$version" \
    --python-platform x86_64-manylinux_2_36 --target "$folder/env/lib/python$version/site-packages" "${wheel}[all]" ||
    fail "the wheels for Python $version cannot be installed"
  "$runner" "$seen/env/bin/python" -W error -c "$import_all" "" "" || fail "not every module imports on Python $version"
  "$runner" "$seen/env/bin/python" -m edgekit.cli.main verify "$seen/imu" >/dev/null ||
    fail "verify on Python $version"
  [ "$("$runner" "$seen/env/bin/python" -m edgekit.cli.main run "$seen/wrist.toml" --frames 20 --json |
    field frames processed)" = 20 ] || fail "run on Python $version"
}

device_wheel() {
  [ -d "$work/device" ] || .venv/bin/python -m pip wheel -q --no-deps -w "$work/device" .
  wheel=$(echo "$work"/device/edgekit_runtime-*.whl)
}

# The two lines of docs/install.md for other systems, and what each says where a runtime is missing.
test_tools() {
  local wheel
  device_wheel
  step "uv tool, pipx"
  [ -x "$roots/linters/bin/pip" ] || python3 -m venv "$roots/linters"
  "$roots/linters/bin/pip" install -q pipx || cannot "pipx cannot be installed"
  export UV_TOOL_DIR=$work/uv UV_TOOL_BIN_DIR=$work/uv/bin PIPX_HOME=$work/pipx PIPX_BIN_DIR=$work/pipx/bin
  .venv/bin/uv tool install -q "edgekit-runtime[litert,vision,update] @ file://$wheel"
  "$roots/linters/bin/pipx" install --quiet "${wheel}[litert,vision,update]" >/dev/null 2>&1 || fail "pipx"
  "$work/uv/bin/edgekit" doctor | grep "uv tool install edgekit-runtime --with" || fail "its hint is not uv's"
  "$work/pipx/bin/edgekit" doctor | grep "pipx inject edgekit-runtime" || fail "its hint is not pipx's"
}

test_pythons() {
  local version path release wheel import_all missing=""
  device_wheel
  import_all=$(PYTHONPATH=packaging .venv/bin/python -c 'import check_wheels; print(check_wheels.IMPORT_ALL)')
  build_bundle
  for version in 3.10 3.11 3.12 3.13 3.14; do
    release=${with_python[$version]:-}
    if path=$(interpreter "$version"); then
      step "Python $version: this machine's"
      smoke "$version" env "$path" "$work/python$version" "$work/python$version"
      rm -rf "$work/python$version"
    elif [ -n "$release" ]; then
      step "Python $version: Debian's ($release)"
      root "$release" amd64
      smoke "$version" inside "python$version" "$work/root/srv" /srv
    else
      missing+=" $version"
    fi
  done
  [ -z "$missing" ] || printf '\nNOT RUN, since neither this machine nor Debian has them: Python%s\n' "$missing"
}
