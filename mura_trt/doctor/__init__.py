"""What this machine is, and whether scoring works on it: every library tried for real, in a process of its own."""

from mura_trt.doctor.run import examine

__all__ = ["examine"]
