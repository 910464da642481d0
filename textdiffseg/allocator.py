"""Settings of glibc's memory allocator.

After each layer a network frees tensors of some megabytes. glibc returns them to the system, and the next layer must
take the same memory anew, page by page. `benchmarks/allocator.py` measures what that costs.
"""

import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from malloc.h
KEPT_BYTES = 1 << 28  # free memory that is kept
MAX_KEPT_BLOCK = 1 << 27  # in bytes; larger blocks, as of whole scans, are always returned
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep freed memory. False: it has no glibc, or the user has chosen other settings."""
    if sys.platform != "linux" or set(OWN_SETTINGS) & os.environ.keys():
        return False
    import ctypes  # late, as `--help` does without it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, MAX_KEPT_BLOCK) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
