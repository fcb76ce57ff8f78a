"""Common to all commands: parse and check flags, run, exit with a status.

A wrong flag and --help are answered without TensorFlow.
"""

import contextlib
import difflib
import functools
import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from trainer.cli import config_help
from trainer.config import Config, config_path, defaults, flat
from trainer.errors import (
    CommandError,
    Preempted,
    StorageError,
    UserError,
    flag_error_in_words,
    full_disk,
    printable,
    require_utf8,
)
from trainer.tensorflow_import import import_tensorflow


@functools.cache
def workdir_flag() -> flags.FlagHolder[str]:
    """Defines --workdir, the folder of a run."""
    flag = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.register_validator(flag, lambda folder: folder != "", "it must name a folder.")
    return flag


def config_flag(help_text: str) -> flags.FlagHolder[ConfigDict]:
    """Defines --config: a config file, the name of one in configs/, or the config.json of a run."""
    flag = config_flags.DEFINE_config_file(
        "config",
        None,
        f"Config file, the name of one in configs/, or config.json of a run. {help_text}",
    )
    flags.FLAGS["config"].parser = _ConfigParser("config")
    return flag


@functools.cache
def checkpoint_flag() -> flags.FlagHolder[str]:
    """Defines --checkpoint, "last" or "best"; "": as the run's config says."""
    return flags.DEFINE_enum(
        "checkpoint",
        "",
        ["", "last", "best"],
        "Newest checkpoint, or the best on the validation split. Default: the run's "
        "config.checkpoint.",
    )


@functools.cache
def data_flag() -> flags.FlagHolder[str]:
    """Defines --data, where the data of a run have moved."""
    return flags.DEFINE_string(
        "data",
        "",
        "Where the run's data are now, written as data.name: images:/data/photos. Default: where "
        "they were.",
    )


class _ConfigParser(ConfigFileFlagParser):
    """Reads a config file, the config of a name such as `conv`, or the config.json of a run."""

    def parse(self, path: str) -> ConfigDict:
        from trainer.run import workdir

        if Path(path).name == workdir.CONFIG:
            return ConfigDict(workdir.read(Path(path).parent).config.to_dict()).lock()
        # A folder may have the name, since runs are often named after their config.
        named = path.replace("-", "_").isidentifier() and not Path(path).is_file()
        return super().parse(str(config_path(path)) if named else path)


def check_config(config: Config) -> None:
    """Raises UserError if the config is wrong or another than --workdir's; needs no TensorFlow."""
    from trainer.run import workdir
    from trainer.storage import paths

    workdir.run_to_resume(paths.path_of(workdir_flag().value), config)


def check_run() -> None:
    """Raises UserError unless --workdir holds a run, whose data may be at --data.

    Needs no TensorFlow.
    """
    from trainer.run import workdir
    from trainer.storage import paths

    workdir.config_of(paths.path_of(workdir_flag().value), data_flag().value)


def run(main: Callable[[], None], check: Callable[[], None] = lambda: None) -> None:
    """Parses the flags, runs `check`, imports TensorFlow, runs `main`, and exits.

    A UserError of `check` is reported before the import. Exit statuses: 0 finished; 2 the user's
    mistake; 75 stopped, to be started again; 76 other workers have not started in time; 130 Ctrl-C
    in a command that cannot be resumed; 141 a closed pipe; 1 anything else.
    """
    app.run(lambda _: _run(main, check), flags_parser=_parse)


def run_on_names(main: Callable[[list[str]], None]) -> None:
    """Runs a command that takes names besides its flags and needs no TensorFlow; see `run`."""
    flags.FLAGS.set_gnu_getopt()  # flags may follow the names
    app.run(
        lambda argv: _run(lambda: main(argv[1:]), needs_tensorflow=False),
        flags_parser=functools.partial(_parse, takes_names=True),
    )


def _run(
    main: Callable[[], None],
    check: Callable[[], None] = lambda: None,
    needs_tensorflow: bool = True,
) -> None:
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        with _stoppable():
            check()
            if needs_tensorflow:
                import_tensorflow()
                gc.freeze()  # else the exit searches TensorFlow's objects, for half a second
        main()
    except CommandError as end:  # other errors leave a traceback
        _leave(str(end), end.exit_status)
    except KeyboardInterrupt:
        _leave("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        _drop_output()
        _leave("nobody reads the output any more", 128 + signal.SIGPIPE)
    except OSError as error:
        if not full_disk(error):
            raise
        _drop_output()
        written = error.filename or "a file, or what is printed,"
        _leave(f"{written} cannot be written: {full_disk(error)}", StorageError.exit_status)


def _drop_output() -> None:
    """Drops what Python would print at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Ends the command with the status of a preemption if SIGTERM comes before any work.

    Process 1 of a container keeps the handler, since Linux ignores its unhandled signals.
    """

    def stop(number, frame):
        del number, frame
        raise Preempted("stopped before the start; start again to resume")

    before = signal.signal(signal.SIGTERM, stop)
    yield
    if os.getpid() != 1:
        signal.signal(signal.SIGTERM, before)


def _parse(argv: list[str], takes_names: bool = False) -> list[str]:
    try:
        require_utf8(argv)
        rest = flags.FLAGS(argv)
        for name in flags.FLAGS:
            # A config file that cannot be opened raises OSError when its value is used.
            getattr(flags.FLAGS[name].value, "items", None)
    except SystemExit:  # absl exits with 1 after --help
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
        if config:
            with contextlib.suppress(BrokenPipeError):
                print(f"\nKeys of the config:\n{config_help.describe(config)}", flush=True)
        sys.exit(0)
    except UserError as error:
        _leave(str(error), error.exit_status)
    except Exception as error:  # a config file is Python: it can fail in any way
        _leave(_in_one_line(error), UserError.exit_status)
    if rest[1:] and not takes_names:
        _leave(f"{rest[1]!r} is not a flag; flags are written --name=value", UserError.exit_status)
    return rest


def _leave(message: str, exit_status: int) -> NoReturn:
    beginning = "" if exit_status == Preempted.exit_status else "error: "
    print(beginning + printable(message), file=sys.stderr)
    sys.exit(exit_status)


def _in_one_line(error: Exception) -> str:
    """Describes an error of the flags, or of a config file with the line that raised it."""
    if isinstance(error, AttributeError | KeyError):
        # ml_collections wraps a KeyError, whose text is escaped, in an AttributeError.
        unknown = re.fullmatch(r"""["'\\]*(\w+)["'\\n\s]*(?:Did you mean "(\w+)".*)?""", str(error))
        if unknown:
            hint = f"did you mean {unknown[2]!r}?" if unknown[2] else _allowed_keys(error)
            return f"the config has no key {unknown[1]!r}; {hint}"
    message = (flag_error_in_words(error).strip() or type(error).__name__).splitlines()[-1].strip()
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"{message}{_key_hint(error.flagname, error.flagvalue)}"
    if isinstance(error, OSError):
        return re.sub(r"\[Errno \d+\] ", "", message)
    wrong_value = re.match(r"flag --([\w.]+)=(.*?): ", message)
    if wrong_value and wrong_value[2] == "None":
        return f"--{wrong_value[1]}=... is missing"
    if wrong_value and wrong_value[1].startswith("config."):
        return f"--{wrong_value[1]}={wrong_value[2]} is not allowed; {_taken(wrong_value[1])}"
    if isinstance(error, ValueError | TypeError | SyntaxError | flags.Error | UserError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    where = [frame for frame in frames if "ml_collections" not in frame.filename][-1]
    return f"{where.filename}:{where.lineno}: {type(error).__name__}: {message}"


def _taken(flag: str) -> str:
    """Says what the flag of a config key takes, or lists the keys if it names a group of keys."""
    config, _, key = flag.partition(".")
    group = functools.reduce(getattr, key.split("."), flags.FLAGS[config].value)
    if isinstance(group, ConfigDict):
        return (
            f"{key} is a group of keys, each given as --{flag}.KEY=VALUE; keys: {', '.join(group)}"
        )
    kind = flags.FLAGS[flag].flag_type()
    return f"it takes a value of type {kind}" + (", as \"('a', 'b')\"" if "tuple" in kind else "")


def _key_hint(name: str, value: str) -> str:
    """Names the config key that a user may have meant by an unknown flag; "" if there is none."""
    if "config" not in flags.FLAGS:
        return ""
    if name.startswith("config."):
        return (
            "; keys of a config need --config=NAME before them; for a run's config, "
            f"--config={_run_config()}"
        )
    last: dict[str, str] = {}
    for key in flat(defaults().to_dict()):
        last.setdefault(key.rpartition(".")[2], key)
    value = value.partition("=")[2]
    close = [key for part, key in last.items() if name == _initials(part) or part.endswith(name)]
    close += [last[part] for part in difflib.get_close_matches(name, last, n=1)]
    return f"; did you mean --config.{close[0]}={value or '...'}?" if close else ""


def _run_config() -> str:
    """Returns the config's path of the run in --workdir, or "RUN/config.json" without a run."""
    from trainer.run import workdir
    from trainer.storage import paths

    given = flags.FLAGS["workdir"].value if "workdir" in flags.FLAGS else None
    with contextlib.suppress(UserError):  # an invalid path
        path = paths.path_of(given or "") / workdir.CONFIG
        if given and path.exists():
            return str(path)
    return f"RUN/{workdir.CONFIG}"


def _initials(key: str) -> str:
    return "".join(word[0] for word in key.split("_"))


def _allowed_keys(error: Exception) -> str:
    """Lists the keys of the group in which a key was not found."""
    selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    groups = [group for group in selves if isinstance(group, ConfigDict)]
    return f"allowed: {', '.join(groups[-1])}" if groups else "trainer/config lists all keys"
