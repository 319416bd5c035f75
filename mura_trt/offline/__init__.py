"""Kits for hosts with no internet: ``make`` writes one on a machine that has it, ``install.sh`` takes it in."""
