"""The argument parser of `vt-export`."""

import argparse

from model_export.commands import calibrate, describe, evaluate, export, quantize, train, verify

DESCRIPTION = "Train Visual Transformers and turn checkpoints into verified ONNX models."
COMMANDS = {
    "describe": describe,
    "train": train,
    "export": export,
    "verify": verify,
    "quantize": quantize,
    "evaluate": evaluate,
    "calibrate": calibrate,
}
"""Each module has a `SUMMARY`, declares its arguments in `add_arguments` and works in `run`."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` of the parsed options executes the chosen one."""
    root = argparse.ArgumentParser(prog="vt-export", description=DESCRIPTION)
    commands = root.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return root
