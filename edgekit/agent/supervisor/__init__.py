"""The always-on process: starts workers, keeps the link, drives updates, answers `edgekit agent status`."""
