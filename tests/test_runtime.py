"""The TensorFlow runtime of a process."""

import ctypes
import platform
import resource

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked to keep pages")
def test_the_pages_of_large_tensors_stay_with_the_process():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size, faults = 2**26, []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensor = libc.malloc(size)
        ctypes.memset(tensor, 1, size)
        libc.free(tensor)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert faults[-1] < 100, faults
