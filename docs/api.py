"""make docs: renders the API pages of trainer, launch and configs from their docstrings.

The commands are left out: they consist of flags, which --help explains, and one process cannot
define the flags of two commands.
"""

import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

import pdoc

from trainer import cli

PAGES = Path(__file__).parent.parent / "build" / "docs"
PACKAGES = ("trainer", "trainer.models", "launch", "configs")
_COMMAND = 'if __name__ == "__main__":'


def write(folder: Path) -> None:
    """Writes a page per module into a folder, with an index and a search."""
    cli.import_tensorflow()
    for name in PACKAGES:
        _list_everything(importlib.import_module(name))
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*(name for name in PACKAGES if "." not in name), output_directory=folder)


def _list_everything(package: ModuleType) -> None:
    """Lists a package's modules and lazy imports in `__all__`, so that pdoc shows them."""
    names = getattr(package, "__all__", [])
    contents = {name: getattr(package, name) for name in names}
    contents["__all__"] = [*names, *_modules(Path(package.__path__[0]))]
    vars(package).update(contents)


def _modules(folder: Path) -> list[str]:
    """Returns the modules in a folder that are not commands."""
    modules = {
        module.name: folder / f"{module.name}.py" for module in pkgutil.iter_modules([folder])
    }
    return [name for name, file in modules.items() if not _is_command(file)]


def _is_command(file: Path) -> bool:
    return file.exists() and _COMMAND in file.read_text(encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else PAGES)
