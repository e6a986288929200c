"""GPU kernels (Triton). Nothing here is imported before its first use on a GPU."""
