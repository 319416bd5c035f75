"""mura-trt: scores whole archives of bone X-rays, study by study, as fast as the machine allows."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later tell Microsoft what they run, on which machine and from which path, unless this is set
# before they are loaded. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Arrow's own allocator keeps what tables have freed: 10 to 25 MB of a million views, and saves no time here.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
