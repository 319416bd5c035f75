"""Synthetic X-rays laid out as MURA is, for tests and demonstrations; not for clinical use."""
