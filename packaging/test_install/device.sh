# shellcheck shell=bash
# The device in the root, and a fleet manager on this machine. A part of packaging/test_install.sh.

device="" # how commands are run on it: booted, inside, in_image
server=""     # the fleet manager
agent=""      # the agent in a root that is not booted

build_bundle() {
  [ -d "$work/bundles" ] || .venv/bin/edgekit zoo build imu-exercise -o "$work/bundles" >/dev/null 2>&1
}

# pipeline FILE: writes a pipeline of the bundle at /srv/imu
pipeline() {
  cat >"$1" <<'TOML'
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

bundle() {
  build_bundle
  cp -r "$work"/bundles/imu-exercise-* "$work/root/srv/imu"
  pipeline "$work/root/etc/edgekit/wrist.toml"
}

# configure LINES: the agent's configuration, with one pipeline
configure() {
  printf '[agent]\nstate = "/var/lib/edgekit"\n%s\n' "$1" >"$work/root/etc/edgekit/agent.toml"
}

# as_agent COMMAND...: as the unit's user; emulated as root, which may keep what Python compiles
as_agent() {
  case $device in
  booted) booted runuser -u edgekit -- "$@" ;;
  inside) inside "$@" ;;
  esac
}

status() { "$device" edgekit agent status --json 2>/dev/null | field "$@" 2>/dev/null; }
runs() { [ "$(status pipelines wrist frames || echo 0)" -gt 0 ]; }
must_run() { until_true "${2:-60}" runs || { agent_log; fail "no frame $1"; }; }
journal_says() { booted journalctl --unit edgekit-agent --no-pager | grep "$1" >/dev/null; } # -q would end journalctl
agent_log() {
  case $device in
  booted) booted journalctl --unit edgekit-agent --no-pager | tail -40 ;;
  *) tail -30 "$work/agent.log" ;;
  esac
}

fleet() { .venv/bin/edgekit-fleet "$@" --data "$work/fleet" --json; }

start_fleet() {
  .venv/bin/edgekit-fleet serve --data "$work/fleet" --port 0 --broker-port 0 >/dev/null 2>"$work/fleet.log" &
  server=$!
  until_true 60 fleet devices >/dev/null 2>&1 || { cat "$work/fleet.log"; fail "the fleet manager does not start"; }
  fleet keys init --keys "$work/keys" >/dev/null
}

# enroll: as "board"; the device must have this machine's network
enroll() {
  as_agent edgekit agent enroll --fleet "http://127.0.0.1:$(field http <"$work/fleet/ports.json")" \
    --token "$(fleet token create --enroll | field token)" --name board
}

stop_fleet() {
  stop "$server"
  server=""
  rm -rf "$work/fleet" "$work/keys"
}

start_agent() { # in a root that is not booted, as the unit does
  inside edgekit agent run --config /etc/edgekit/agent.toml >"$work/agent.log" 2>&1 &
  agent=$!
}

stop_agent() { # the shell that started it waits for it
  [ -z "$agent" ] || stop "$(pgrep -P "$agent")"
  agent=""
}

no_rollout() { [ "$(fleet rollout list | .venv/bin/python -c 'import json, sys; print([row["state"] for row in json.load(sys.stdin)["items"]].count("running"))')" = 0 ]; }

active() { [ "$(status models "$1" active)" = "$2" ]; } # MODEL VERSION

# roll_out MODEL VERSION SOAK_S
roll_out() {
  until_true 60 no_rollout || fail "the rollout before does not end"
  fleet rollout create --model "$1" --version "$2" --devices board --waves 100% --soak-s "$3" >/dev/null
}
