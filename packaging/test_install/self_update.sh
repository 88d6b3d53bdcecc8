# shellcheck shell=bash
# The agent replaces itself by signed releases, as the package has installed it. A part of packaging/test_install.sh.

# release VERSION [TEXT]: publishes this checkout's agent under another version, with TEXT at the end of its supervisor
release() {
  rm -rf "$work/source"
  mkdir "$work/source"
  git ls-files -z pyproject.toml README.md LICENSE edgekit device_profiles | xargs -0 cp --parents -t "$work/source"
  sed -i "s/^version = .*/version = \"$1\"/" "$work/source/pyproject.toml"
  printf '__version__ = "%s"\n' "$1" >"$work/source/edgekit/version.py"
  printf '%s\n' "${2:-}" >>"$work/source/edgekit/agent/supervisor/supervisor.py"
  .venv/bin/python -m pip wheel -q --no-deps -w "$work/wheels" "$work/source"
  .venv/bin/edgekit-fleet release "$work/wheels/edgekit_runtime-$1-py3-none-any.whl" -o "$work/agent-$1.ekb" >/dev/null
  fleet publish "$work/agent-$1.ekb" --keys "$work/keys" >/dev/null
}

is_agent() { [ "$(status agent)" = "$1" ] && runs; }
is_settled() { [ "$(status updates edgekit-agent state)" = IDLE ] && is_agent "$1"; }
must_be() { until_true "$2" is_settled "$1" || { agent_log; fail "the agent is not $1"; }; }
has_left() { [ -n "$(status rejected "edgekit-agent@$1")" ]; }

# must_leave VERSION SECONDS BEFORE: the device leaves a release by itself for the one before
must_leave() {
  until_true "$2" has_left "$1" || { agent_log; fail "agent $1 was not left"; }
  must_be "$3" 60
  printf 'left: '
  status rejected "edgekit-agent@$1"
}

# The device must be enrolled, and its unit active.
test_self_update() {
  step "self-update: a release, tried and committed"
  release 0.2.0
  local began=$SECONDS took_s
  roll_out edgekit-agent 0.2.0 2
  must_be 0.2.0 120
  took_s=$((SECONDS - began))
  echo "in $took_s s"

  step "self-update: a release that does not do its work is left by itself"
  release 0.3.0 $'from edgekit.agent.supervisor.pool import WorkerPool\nWorkerPool.apply = lambda *_: None'
  roll_out edgekit-agent 0.3.0 2
  must_leave 0.3.0 120 0.2.0
  [[ $(status rejected edgekit-agent@0.3.0) =~ "pipeline wrist does not run" ]] || fail "it was left for another reason"

  step "self-update: a release that hangs is ended by the unit's watchdog"
  booted mkdir -p /run/systemd/system/edgekit-agent.service.d # the unit as it is, in less time
  booted sh -c "printf '[Service]\nWatchdogSec=15\nTimeoutStartSec=20\n' >/run/systemd/system/edgekit-agent.service.d/hasty.conf; systemctl daemon-reload; systemctl restart edgekit-agent"
  must_be 0.2.0 60
  release 0.4.0 $'import time\nSupervisor.run = lambda self: time.sleep(3600)'
  roll_out edgekit-agent 0.4.0 2
  must_leave 0.4.0 180 0.2.0
  journal_says "Watchdog timeout" || fail "no word of the watchdog"
  booted sh -c 'rm -r /run/systemd/system/edgekit-agent.service.d; systemctl daemon-reload; systemctl restart edgekit-agent'
  must_be 0.2.0 60

  step "self-update: the release is restarted by the unit"
  booted systemctl kill --signal=KILL --kill-who=main edgekit-agent
  until_true 30 restarted || fail "not restarted"
  must_be 0.2.0 60

  step "self-update: power lost at any moment of it"
  local before="" number now=0.2.0
  for number in $(seq "${POWER_CUTS:-3}"); do
    before=$now now=0.5.$number
    release "$now"
    roll_out edgekit-agent "$now" 2
    some_time "$took_s"
    power_off
    power_on
    must_run "after the power was lost"
    [[ $(status agent) =~ ^($before|$now)$ ]] || fail "neither $before nor $now runs"
    must_be "$now" 180
  done

  step "self-update: back to the release before, and nothing was lost"
  booted edgekit agent rollback edgekit-agent
  must_be "$before" 60
  [ "$(gaps)" = 0 ] || fail "messages of the device were lost"
}

# gaps: how many holes the fleet manager has found in what the device sent
gaps() { .venv/bin/python -c 'import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM event WHERE kind = '"'gap'"'").fetchone())' "$work/fleet/fleet.sqlite"; }
