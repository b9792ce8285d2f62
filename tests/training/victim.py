"""What test_faults.py runs in a process of its own: `python victim.py HOW ARGUMENTS` trains the tiny network.

HOW is `kill-N`, which ends the process in training step N as `kill -9` does, or `limit-N`, which lets it
write no file longer than N bytes.
"""

import os
import resource
import signal
import sys

import torch

from depthloss.training import cli
from depthloss.training.configuration import sections as config
from depthloss.training.loop.callbacks import Pictures
from tests.training.conftest import TinyNet


class Victim(TinyNet):
    """Kills its process in a step."""

    def forward(self, rgb, input_depth=None):
        output = super().forward(rgb, input_depth)
        if self.training and TinyNet.calls == Victim.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return output


if __name__ == "__main__":
    how, _, number = sys.argv[1].partition("-")
    Victim.kill_at = int(number) if how == "kill" else None
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    config.NETWORKS["Tiny"] = Victim
    Pictures._draw = lambda self, trainer: None
    cli.main(sys.argv[2:])
