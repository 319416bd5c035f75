"""Runs mura-trt from a checkout: ``python cli.py score ...``."""

from mura_trt.cli import app

if __name__ == "__main__":
    app()
