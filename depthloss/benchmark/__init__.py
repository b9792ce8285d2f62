"""``depthloss bench``: how fast and how lean the losses are on this machine, beside what people write."""
