"""Kernels of grid sampling: one function in PyTorch, C++, numba and Triton."""
