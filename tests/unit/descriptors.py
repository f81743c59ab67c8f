"""The descriptors of the process that runs the tests."""

import gc
import os

__all__ = ["open_descriptors"]


def open_descriptors():
    """Count the open descriptors, without those of garbage that earlier tests have left."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
