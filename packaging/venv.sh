#!/usr/bin/env bash
# Makes or refreshes .venv/ at the root with the three distributions, editable, and what ./check needs.
# With the word "torch" it adds what the tests of the compression kit need besides: PyTorch is large,
# and the demo does without. Does nothing where the declared requirements have not changed since.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "edgekit needs a 64-bit Python 3.10 or newer; none of python3, python3.10 ... python3.14 is one" >&2
  exit 3
}

make_venv() {
  local python=$1
  "$python" -m venv .venv 2>/dev/null && return
  rm -rf .venv
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && "$python" -m venv .venv && return
  fi
  echo "$python cannot make a virtual environment; install its venv module (Debian: apt-get install python3-venv)" >&2
  exit 3
}

want=${1:-base}
stamp=.venv/edgekit-requirements-$want.sha256
wanted=$(cat pyproject.toml optimize/pyproject.toml fleet/pyproject.toml packaging/venv.sh | sha256sum | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

[ -x .venv/bin/python ] || make_venv "$(find_python)"
echo "edgekit: setting up .venv ($want; a minute or more; needs a package registry)" >&2
.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1" >&2
if [ "$want" = torch ]; then
  # one release, so that every machine tests with the same
  .venv/bin/python -m pip install --quiet "torch==2.13.0" >&2
  .venv/bin/python -m pip install --quiet -e ".[all]" -e "./optimize[torch]" -e ./fleet --group dev >&2
else
  .venv/bin/python -m pip install --quiet -e ".[all]" -e ./optimize -e ./fleet --group dev >&2
fi
echo "$wanted" >"$stamp"
