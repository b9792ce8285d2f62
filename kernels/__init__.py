"""Device code: the fused backends, installed as depthloss.kernels."""
