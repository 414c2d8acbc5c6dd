"""The script that trains the default models has commands that `vt-export` accepts."""

import os
import subprocess
from pathlib import Path

from model_export.commands.parser import parser
from model_export.models.registry import dimensions_of
from model_export.training import recipes

SCRIPT = Path(recipes.__file__).parent / "default_weights.sh"
PRINTER = '#!/bin/sh\nprintf "%s\\n" "$@" END\n'


def commands(folder: Path, *seeds: str, **environment: str) -> list[list[str]]:
    """The arguments of every command that the script runs."""
    (folder / "vt-export").write_text(PRINTER)
    (folder / "vt-export").chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    printed = subprocess.run(
        [SCRIPT, "data", "runs", *seeds],
        env=os.environ | path | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [lines.split("\n") for lines in printed.stdout.split("\nEND\n")[:-1]]


def test_every_command_is_valid_and_has_a_recipe_of_its_task(tmp_path):
    models = []
    for command in commands(tmp_path, BASELINES="1"):
        options = parser().parse_args(command)
        task = dimensions_of(options.model).task
        recipe = recipes.RECIPES[options.recipe or task].changed(**dict(options.set))
        recipe.check_task(task)
        models.append(options.model)
    assert models == ["resnet18", "vt_resnet18", "vt_fpn_resnet18", "resnet18", "fpn_resnet18"]


def test_every_seed_has_its_own_trunk(tmp_path):
    found = [parser().parse_args(command) for command in commands(tmp_path, "3", "7")]
    assert [options.seed for options in found] == [3, 3, 3, 7, 7, 7]
    starts = [str(options.backbone) for options in found if options.backbone]
    assert starts == [f"runs/seed{seed}/trunk/checkpoint.safetensors" for seed in (3, 3, 7, 7)]
