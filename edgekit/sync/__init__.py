"""The link to the fleet: outbox, egress gate, ledger, MQTT."""
