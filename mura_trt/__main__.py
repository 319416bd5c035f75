"""``python -m mura_trt``."""

from mura_trt.cli import app

if __name__ == "__main__":
    app()
