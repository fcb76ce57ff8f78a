"""Reads a user's vectors from the rows of one or two tables."""

import dataclasses

from trainer.config import Data, key
from trainer.data.dataset import Split
from trainer.data.memory import aligned_copy
from trainer.data.sources import Request, Splits
from trainer.errors import require
from trainer.storage import paths

EXAMPLE = "table:FILE"
RESIZES = False
STAYS_IN_FILES = False
PATH_MAY_MOVE = True


@dataclasses.dataclass(frozen=True)
class Settings(Data):
    """Declares the keys of tables."""

    label_column: str = key("", 'Column of labels, integers or words; "": no labels.')
    drop_columns: str = key("", "Columns to leave out of the features, with commas between.")
    impute: str = key(
        "",
        "Replace missing numbers by the feature's mean or median in the training split; "
        '"": refuse them.',
        choices=("", "mean", "median"),
    )

    def check(self) -> None:
        files = self.name.partition(":")[2]
        require(
            files != "" and files.count(",") <= 1,
            f"data.name={self.name!r} is not allowed; it is written table:FILE or table:TRAIN,TEST",
        )


def read(request: Request[Settings]) -> Splits:
    """Reads table:FILE, or table:TRAIN,TEST; missing values are NaN if they will be imputed."""
    from trainer.data.files import tables

    settings, files = request.settings, request.argument.split(",")
    found = tables.read(
        [paths.path_of(file) for file in files],
        label_column=settings.label_column,
        drop_columns=tables.split_names(settings.drop_columns),
        keep_missing=settings.impute != "",
        allowed_bytes=request.allowed_bytes,
    )
    splits = [Split(aligned_copy(table.rows), table.labels) for table in found.tables]
    test = splits[1] if len(splits) > 1 else None
    return Splits(splits[0], test, found.feature_names, found.class_names, settings.impute)
