# shellcheck shell=bash
# The fleet manager's package in a booted root. A part of packaging/test_install.sh.

serves() { booted edgekit-fleet devices --data /var/lib/edgekit-fleet >/dev/null 2>&1; }
must_serve() { until_true 60 serves || { booted journalctl --unit edgekit-fleet --no-pager | tail -20; fail "it does not serve $1"; }; }
fleet_was_ended() { booted journalctl --unit edgekit-fleet --no-pager | grep -q "Watchdog timeout"; }

# The root must have no package of edgekit and be off; it is clean and off afterwards.
test_fleet_manager() {
  step "the fleet manager's package: installed without a network, started, upgraded, purged"
  put_stick "$1"
  inside sh /debs/install.sh --offline --yes --fleet --keyring /debs/keys.gpg >"$work/apt.log" 2>&1 ||
    { tail -20 "$work/apt.log"; fail "install.sh --fleet"; }
  unit_is_sound edgekit-fleet
  power_on
  booted systemctl is-enabled --quiet edgekit-fleet && fail "it is enabled though nobody asked for it"
  booted systemctl enable --quiet --now edgekit-fleet
  must_serve "at first"
  is_guarded edgekit-fleet
  booted systemctl kill --signal=KILL --kill-who=main edgekit-fleet
  must_serve "after it was killed"
  booted sh -c "mkdir -p /run/systemd/system/edgekit-fleet.service.d; printf '[Service]\\nWatchdogSec=15\\n' >/run/systemd/system/edgekit-fleet.service.d/hasty.conf; systemctl daemon-reload; systemctl restart edgekit-fleet"
  # shellcheck disable=SC2016 # the inner shell expands
  booted sh -c 'kill -STOP $(systemctl show --property MainPID --value edgekit-fleet)'
  until_true 40 fleet_was_ended || fail "frozen, it is not ended by its watchdog"
  must_serve "after it was frozen"
  booted sh -c 'DEBIAN_FRONTEND=noninteractive apt-get install -y --reinstall /debs/edgekit-fleet_*.deb' >"$work/apt.log" 2>&1 ||
    { tail "$work/apt.log"; fail "upgrade"; }
  must_serve "after an upgrade"
  power_off
  power_on
  must_serve "after the power was lost"
  power_off
  purge
}
