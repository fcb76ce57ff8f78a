"""Finds data sets of TFDS in their folder, or prepares them there.

However many processes ask for a data set, only one prepares it. A prepared data set needs no lock,
and may be in a read-only folder.
"""

import contextlib
import difflib
import functools
import gzip
import http.client
import re
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests

from trainer.config import source_settings
from trainer.errors import StorageError, UserError, full_disk, in_one_line, require
from trainer.storage import locks

_INFO = "dataset_info.json"  # written last, so it marks a whole data set
_SOURCES = {  # by the suffix of a user's file
    **dict.fromkeys((".npz", ".npy"), "arrays"),
    **dict.fromkeys((".csv", ".tsv", ".parquet"), "table"),
}
_FOREIGN_NAMESPACE = r"[^:]*:(?![\d*])"  # TFDS would download and run the code of a namespace
_TIMEOUT_SECONDS = 10
_STALL_SECONDS = 60  # in which a download must go on


def find(name: str, folder: str | None):
    """Returns TFDS's builder of a data set in a folder (None: TFDS's own), prepared or not.

    Raises:
      UserError: TFDS does not know the name, or the folder holds an incomplete data set.
    """
    import tensorflow_datasets as tfds

    require(
        re.match(_FOREIGN_NAMESPACE, name) is None,
        f"{name!r} is not known; {_source_hint(name)}before a colon stands a source, such as "
        "images, or the name of a data set of TFDS's own, as in mnist:3.0.1",
    )
    try:
        builder = tfds.builder(name, data_dir=folder)
    except Exception as error:  # TFDS raises a different error for each part of a name
        require(
            not isinstance(error.__cause__, ValueError),
            f"the {_INFO} of {name} in {folder} cannot be read; "
            "delete the folder that it is in and prepare the data set again",
        )
        raise UserError(
            f"{name!r} is neither a source nor a data set of TFDS; {_hint(name)}"
        ) from error
    require(
        is_prepared(builder) or not builder.data_path.exists(),
        f"{builder.data_path} holds an incomplete data set, without its {_INFO}; "
        "delete that folder and prepare the data set again",
    )
    return builder


def _source_hint(name: str) -> str:
    source, _, argument = name.partition(":")
    close = difflib.get_close_matches(source, source_settings(), n=1)
    return f"did you mean {close[0]}:{argument}? " if close else ""


def _hint(name: str) -> str:
    import tensorflow_datasets as tfds

    source = _SOURCES.get(Path(name).suffix)
    with contextlib.suppress(OSError):  # the name may be too long for a path
        source = "images" if Path(name).is_dir() else source
    if name and source:
        return f"did you mean {source}:{name}?"
    known = [*source_settings(), *tfds.list_builders()]
    close = difflib.get_close_matches(name.partition(":")[0], known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "see tensorflow.org/datasets"


def is_prepared(builder) -> bool:
    """Returns whether the data set can be read from its folder."""
    return (builder.data_path / _INFO).exists()


def download(name: str, folder: str | None, file_format: str | None = None) -> None:
    """Downloads and prepares a data set, unless another process does so first.

    `file_format` is "tfrecord", "array_record", or None for TFDS's default.

    Raises:
      UserError: the server cannot be reached, or the folder cannot be written or locked.
    """
    builder = find(name, folder)
    try:
        for url in list(builder.url_infos or ())[:1]:
            _reach(url)  # TFDS retries for minutes where there is no network
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
    """Prepares MNIST as `download` does, but from the contents of its original files, by name."""
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
    folder = str(builder.data_dir_root)
    advice = f"prepare {builder.name} in another folder, and copy that here"
    require("://" not in folder, f"{folder} cannot be locked; {advice}")
    with locks.locked(Path(folder) / f".{builder.name}.lock", advice):
        if is_prepared(builder):
            return
        try:
            with _stalls_ended():
                prepare()
        except Exception as error:  # each library that TFDS uses fails in its own way
            kind = StorageError if full_disk(error) else UserError
            raise kind(
                f"the data set {builder.info.full_name} cannot be prepared in {folder} "
                f"({type(error).__name__}: {in_one_line(error)})"
            ) from error


@contextlib.contextmanager
def _stalls_ended() -> Iterator[None]:
    """Ends downloads whose server sends nothing for _STALL_SECONDS, for which TFDS would wait."""
    request, before = requests.Session.request, socket.getdefaulttimeout()
    limited = functools.partialmethod(request, timeout=_STALL_SECONDS)
    requests.Session.request = limited  # type: ignore[method-assign,assignment]
    socket.setdefaulttimeout(_STALL_SECONDS)  # of FTP
    try:
        yield
    finally:
        requests.Session.request = request  # type: ignore[method-assign]
        socket.setdefaulttimeout(before)


def _reach(url: str) -> None:
    """Raises OSError unless the server of a URL answers in time; an HTTP error is an answer."""
    answers: list[OSError | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  # TFDS's own URL
        try:
            with contextlib.suppress(urllib.error.HTTPError, http.client.HTTPException, ValueError):
                urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
            answers.append(None)
        except OSError as error:
            answers.append(error)

    # In a thread: looking up a name and trying its addresses have no time limit of their own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_TIMEOUT_SECONDS)
    answer = answers[0] if answers else TimeoutError(f"no answer in {_TIMEOUT_SECONDS} seconds")
    if answer:
        raise answer
