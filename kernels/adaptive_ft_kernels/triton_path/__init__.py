"""Triton kernels behind the public operations; imported only where Triton is installed and asked for."""
