"""Data sets of TFDS in their folder: found, or prepared once, however many processes ask for one.

What is prepared is only read: its folder may be read-only, and nobody waits for a lock.
"""

import contextlib
import difflib
import gzip
import http.client
import re
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.errors import UserError, require
from trainer.storage import locks

_INFO = "dataset_info.json"  # without which no data set is whole
_OWN = {  # a user's files by their endings: what is written before their name
    **dict.fromkeys((".npz", ".npy"), "arrays"),
    **dict.fromkeys((".csv", ".tsv", ".parquet"), "table"),
}
_FOREIGN_NAMESPACE = r"[^:]*:(?![\d*])"  # a namespace, from which TFDS would fetch code and run it
_REACH_SECONDS = 10  # that a server may take to answer


def find(name: str, folder: str | None):
    """TFDS's builder of a data set in a folder (None: TFDS's own), be it prepared there or not.

    Raises:
      UserError: TFDS knows none of that name, or a part of it is all that the folder holds.
    """
    import tensorflow_datasets as tfds

    require(
        re.match(_FOREIGN_NAMESPACE, name) is None,
        f"{name!r} is not known; allowed before a colon: arrays, images, table, noise, or the name "
        "of a data set of TFDS's own, as in mnist:3.0.1",
    )
    try:
        builder = tfds.builder(name, data_dir=folder)
    except Exception as error:  # a name can be wrong in as many ways as it has parts
        require(
            not isinstance(error.__cause__, ValueError),
            f"the {_INFO} of {name} in {folder} cannot be read; "
            "delete the folder that it is in and prepare the data set again",
        )
        close = difflib.get_close_matches(name, ["digits", *tfds.list_builders()], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see tensorflow.org/datasets"
        own = _OWN.get(Path(name).suffix)
        with contextlib.suppress(OSError):  # the name may be too long for a path
            own = "images" if Path(name).is_dir() else own
        if name and own:
            hint = f"did you mean {own}:{name}?"
        raise UserError(f"{name!r} is no data set of TFDS; {hint}") from error
    require(
        is_prepared(builder) or not builder.data_path.exists(),
        f"{builder.data_path} holds a part of a data set, without its {_INFO}; "
        "delete that folder and prepare it again",
    )
    return builder


def is_prepared(builder) -> bool:
    """Whether its data set is there to be read."""
    return (builder.data_path / _INFO).exists()


def download(name: str, folder: str | None, file_format: str | None = None) -> None:
    """Downloads and prepares a data set, unless another process does so first.

    `file_format` is "tfrecord" or "array_record"; None: the one that TFDS takes by itself.

    Raises:
      UserError: it cannot be had, or the folder cannot be written or locked.
    """
    builder = find(name, folder)
    try:
        for url in list(builder.url_infos or ())[:1]:
            _reach(url)  # TFDS itself retries for minutes where there is no network
    except OSError as error:
        from_files = ", or here with --from_idx=FILES, the folder of its four original files"
        why = getattr(error, "reason", error)
        raise UserError(
            f"the data set {name} is not in {builder.data_path}, and its server cannot be reached "
            f"({why}); run python -m trainer.prepare --dataset={name} --data_dir=DIR on a "
            f"connected machine{from_files if builder.name == 'mnist' else ''}; then set "
            "TFDS_DATA_DIR to DIR or its copy"
        ) from error
    _prepare_once(builder, lambda: builder.download_and_prepare(file_format=file_format))


def prepare_mnist(
    folder: str | None, contents: Mapping[str, bytes], file_format: str | None = None
) -> None:
    """Likewise MNIST, of the unpacked contents of its four original files, by their names."""
    builder = find("mnist", folder)

    def prepare() -> None:
        with tempfile.TemporaryDirectory() as files:
            for name, content in contents.items():
                packed = gzip.compress(content, compresslevel=1)
                (Path(files) / f"{name}.gz").write_bytes(packed)
            builder.URL = f"{files}/"
            builder.download_and_prepare(download_dir=f"{files}/downloads", file_format=file_format)

    _prepare_once(builder, prepare)


def _prepare_once(builder, prepare: Callable[[], None]) -> None:
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with _locked(builder):
        if is_prepared(builder):
            return
        try:
            prepare()
        except Exception as error:  # it fails in as many ways as there are libraries in it
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"the data set {builder.info.full_name} cannot be prepared in "
                f"{builder.data_dir_root} ({why})"
            ) from error


def _reach(url: str) -> None:
    """Raises OSError unless a URL's server answers in time, if it has one, be it with a refusal."""
    answers: list[OSError | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  # TFDS's own URL
        try:
            with contextlib.suppress(urllib.error.HTTPError, http.client.HTTPException, ValueError):
                urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()  # noqa: S310
            answers.append(None)
        except OSError as error:
            answers.append(error)

    # Aside: looking up the name and trying all of its addresses take as long as they like.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_REACH_SECONDS)
    answer = answers[0] if answers else TimeoutError(f"no answer in {_REACH_SECONDS} seconds")
    if answer:
        raise answer


def _locked(builder) -> contextlib.AbstractContextManager[None]:
    """Keeps the other processes, of all hosts that share the folder, from preparing meanwhile."""
    folder = str(builder.data_dir_root)
    advice = f"prepare {builder.name} in another folder, and copy that here"
    require("://" not in folder, f"{folder} cannot be locked; {advice}")
    return locks.locked(Path(folder) / f".{builder.name}.lock", advice)
