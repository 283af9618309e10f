"""glibc's allocator on CPUs: large tensors are given back to the system when they are freed, and the next ones
cost a page fault for every 4 KiB. A training step allocates gigabytes of them, again and again."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> None:
    """From now on what this process frees stays with it, for its next tensors. Does nothing where the C library
    is another one."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
