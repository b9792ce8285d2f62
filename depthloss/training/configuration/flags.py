"""Flags of train.py that abbreviate a key, or stand for no key."""

from __future__ import annotations

from depthloss.training.command import typed
from depthloss.training.configuration.sections import LAST
from depthloss.training.errors import ConfigError

SHORT_FLAGS = {
    "--supervised-method": "--model.loss.supervised_method",
    "--lambda-sg": "--model.loss.lambda_sg",
    "--max-epochs": "--trainer.max_epochs",
}
SWITCHES = {
    "--profile-loss": "--profile_loss=true",
    "--check-data": "--check_data=true",
    "--skip-bad-frames": "--datasets.skip_bad_frames=true",
}
# Flags that stand for no key.
OTHER_FLAGS = ("config", "debug", "gpus", "help", "print_config", "resume")

EPILOG = """short flags: --supervised-method NAME, --lambda-sg X, --max-epochs N, --name RUN,
--gpus LIST (0 or 0,1; or cpu; default auto), --resume [last|best|auto|FILE] (bare: last;
auto: last, or from the start if there is none),
--check-data, --skip-bad-frames, --profile-loss, --debug (the traceback of an error)"""


def split_arguments(argv: list[str]) -> tuple[str | None, list[str], str | None]:
    """Split a command line: the configuration file, the arguments with short flags spelt out, what to resume.

    Raises:
        ConfigError: a flag without its value.
    """
    rest = list(argv)
    config_file = rest.pop(0) if rest and not rest[0].startswith("-") else None
    arguments: list[str] = []
    resume = None
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        following = rest[0] if rest and not rest[0].startswith("-") else None
        if flag == "--resume":
            if not equals and following is not None:
                value = rest.pop(0)
            if value.endswith((".yaml", ".yml")):
                raise ConfigError(
                    f"--resume {value}: a checkpoint is needed; the configuration file comes first"
                )
            resume = value or LAST
        elif flag in ("--gpus", "--config"):
            if not equals and following is None:
                raise ConfigError(f"{flag} needs a value")
            value = value if equals else rest.pop(0)
            if flag == "--gpus":
                arguments += _devices(value)
            else:
                config_file = value
        elif flag in SWITCHES and not equals:
            arguments.append(SWITCHES[flag])
        elif flag.endswith((".yaml", ".yml")) and not _awaits_value(arguments):
            first = f"{typed('train.py')} {flag} --key value ..."
            raise ConfigError(f"{flag}: the configuration file comes first: {first}")
        else:
            arguments.append(SHORT_FLAGS.get(flag, flag) + equals + value)
    return config_file, arguments, resume


def _awaits_value(arguments: list[str]) -> bool:
    return bool(arguments) and arguments[-1].startswith("--") and "=" not in arguments[-1]


def _devices(gpus: str) -> list[str]:
    if gpus == "auto":
        return []
    if gpus == "cpu":
        return ["--trainer.accelerator=cpu", "--trainer.devices=auto"]
    if not all(index.isdigit() for index in gpus.split(",")):
        raise ConfigError(f"--gpus {gpus}: a list of GPU numbers such as 0 or 0,1 is needed, or cpu, or auto")
    return ["--trainer.accelerator=gpu", f"--trainer.devices=[{gpus}]"]
