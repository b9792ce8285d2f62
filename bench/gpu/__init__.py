"""The kernels on a GPU, and as compiled without one."""
