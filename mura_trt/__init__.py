"""mura-trt: scores whole archives of bone X-rays, study by study, as fast as the machine allows."""

__version__ = "0.1.0"
