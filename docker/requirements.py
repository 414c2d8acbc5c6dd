"""Print what the project needs, one requirement a line: `python requirements.py [EXTRA ...]`.

So that an image's dependencies are a layer of their own, which changes in the code leave alone.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]
print(*project["dependencies"], *sum(extras, []), sep="\n")  # noqa: T201, RUF017
