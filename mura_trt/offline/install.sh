#!/bin/sh
# Installs mura-trt from the kit in this folder, with no network.
#
#   sh install.sh [ENVIRONMENT]      makes the virtual environment ENVIRONMENT [./mura-trt-env]
#   sh install.sh --help             the other options
#
# It needs the Python that the kit was made for, and nothing else. PYTHON=/path/to/python names one.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ ! -r "$here/offline.json" ] || [ ! -r "$here/install.py" ]; then
  echo "mura-trt offline: offline.json or install.py is missing in $here: copy the kit's files again" >&2
  exit 1
fi
wanted=$(sed -n 's/^ *"python": "\(3\.[0-9]*\)".*/\1/p' "$here/offline.json")
for python in "${PYTHON:-}" "python$wanted" python3; do
  if [ -n "$python" ] && command -v "$python" > /dev/null 2>&1; then
    found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' || true)
    [ "$found" != "$wanted" ] || exec "$python" "$here/install.py" "$@"
  fi
done
echo "mura-trt offline: this kit is for Python $wanted, which is not here: name it as in" >&2
echo "  PYTHON=/path/to/python$wanted sh install.sh, or make a kit with --python for the one that is" >&2
exit 1
