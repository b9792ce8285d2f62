"""Training of depth networks with the losses of `depthloss`; needs the extra `depthloss[train]`."""
