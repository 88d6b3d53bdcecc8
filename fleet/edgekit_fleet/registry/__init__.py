"""What may be installed: bundles signed by their publisher, kept and served as a TUF repository."""
