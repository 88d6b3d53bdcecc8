"""What this machine is and has, and which device profile fits it."""
