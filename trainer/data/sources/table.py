"""Reads a user's vectors from the rows of one or two tables."""

import dataclasses
from collections import Counter

from trainer.config import Data, key
from trainer.data.dataset import Split
from trainer.data.files.number_format import MISSING
from trainer.data.files.text_format import AUTO, SEPARATORS, TextFormat
from trainer.data.sources import Request, Splits
from trainer.errors import require
from trainer.storage import paths

EXAMPLE = "table:FILE"
RESIZES = False
STAYS_IN_FILES = True
PATH_MAY_MOVE = True
SEVERAL_PATHS = True


@dataclasses.dataclass(frozen=True)
class Settings(Data):
    """Declares the keys of tables."""

    label_column: str = key("", 'Column of labels, integers or words; "": no labels.')
    drop_columns: tuple[str, ...] = key((), "Columns to leave out.")
    id_columns: tuple[str, ...] = key(
        (), "Columns that are not features, but are written with codes and reconstructions."
    )
    categorical: str = key(
        "",
        "Columns of text: onehot makes each of their texts, at most 100 a column, a feature of 0 "
        'and 1; "": refuse them.',
        choices=("", "onehot"),
    )
    missing: tuple[str, ...] = key(MISSING, "Texts that stand for a missing number.")
    separator: str = key(
        AUTO,
        "What separates the columns of text files; auto: recognise it.",
        choices=(AUTO, *SEPARATORS),
    )
    decimal: str = key(
        AUTO,
        "Decimal mark of text files, the other mark separates thousands; auto: recognise it.",
        choices=(AUTO, ".", ","),
    )
    header: str = key(
        AUTO,
        "Whether the first row of text files names the columns; none: they become column_1 and "
        "so on; auto: recognise it.",
        choices=(AUTO, "first_row", "none"),
    )
    encoding: str = key(
        AUTO, "Encoding of text files, a name of Python's codecs; auto: UTF-8, or by its mark."
    )
    impute: str = key(
        "",
        "Replace missing numbers by the feature's mean or median in the training split; "
        '"": refuse them.',
        choices=("", "mean", "median"),
    )
    cache_dir: str = key(
        "",
        'Folder for the cache of rows that do not fit in memory; "": .tables beside the file.',
        may_change=True,
    )

    def check(self) -> None:
        files = self.name.partition(":")[2]
        require(
            files != "" and files.count(",") <= 1,
            f"data.name={self.name!r} is not allowed; it is written table:FILE or table:TRAIN,TEST",
        )
        used = [*filter(None, [self.label_column]), *self.id_columns, *self.drop_columns]
        twice = [name for name, count in Counter(used).items() if count > 1]
        require(
            not twice,
            f"column {twice[0] if twice else ''!r} is named twice; data.label_column, "
            "data.id_columns and data.drop_columns exclude each other",
        )

    def text_format(self) -> TextFormat:
        """Returns how text files are to be read."""
        return TextFormat(self.separator, self.decimal, self.header, self.encoding, self.missing)


def read(request: Request[Settings]) -> Splits:
    """Reads table:FILE, or table:TRAIN,TEST; missing values are NaN if they will be imputed."""
    from trainer.data.files import training_tables

    settings, files = request.settings, request.argument.split(",")
    found = training_tables.read(
        [paths.path_of(file) for file in files],
        training_tables.ColumnRoles(
            label=settings.label_column,
            ids=settings.id_columns,
            drop=settings.drop_columns,
            onehot=settings.categorical == "onehot",
            keep_missing=settings.impute != "",
        ),
        settings.text_format(),
        training_tables.Storage(settings.placement, request.allowed_bytes, settings.cache_dir),
    )
    splits = [Split(table.rows, table.labels, ids=table.ids) for table in found.tables]
    return Splits(
        splits[0],
        splits[1] if len(splits) > 1 else None,
        features=found.features,
        class_names=found.class_names,
        impute=settings.impute,
        notes=found.notes,
    )
