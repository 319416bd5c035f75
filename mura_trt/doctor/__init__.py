"""What this machine is, and whether scoring works on it: every library tried for real, in a process of its own."""
