"""The files of a run's data set: found, downloaded, or refused with the command that makes them."""

from __future__ import annotations

import glob
import sys
from functools import partial
from pathlib import Path

from recbole_kd.config.known_keys import close_names
from recbole_kd.config.model_catalogue import recbole_folder
from recbole_kd.data.preparing.known_datasets import KNOWN_DATASETS
from recbole_kd.data.preparing.prepare import not_prepared, prepare_command, prepare_published
from recbole_kd.data.preparing.recbole_downloads import download_atomic_files, recbole_addresses
from recbole_kd.errors import DataError, DownloadError
from recbole_kd.integration.safe_load import load_pickle

say = partial(print, file=sys.stderr, flush=True)  # as the screen of a run


def folder_of(dataset: str, data_path: str) -> Path:
    """Return the folder of a data set; RecBole brings ml-100k."""
    return recbole_folder() / "dataset_example" / dataset if dataset == "ml-100k" else Path(data_path) / dataset


def provide_dataset(dataset: str, data_path: str, download: bool = False) -> None:
    """Make sure that a data set is there.

    A data set that RecBole has an address of is downloaded, as RecBole does; one that is prepared from published raw
    files only if that is asked for.

    Args:
        dataset: its name.
        data_path: folder that has the folder of the data set.
        download: download and prepare it if it is missing.

    Raises:
        DataError: it is missing; the message names the command that makes it.
        DownloadError: it cannot be downloaded.
    """
    folder = folder_of(dataset, data_path)
    if any(folder.glob(f"{glob.escape(dataset)}*.inter")):
        return
    if dataset in KNOWN_DATASETS:
        _prepare(dataset, folder, download)
    elif dataset in recbole_addresses():
        _download(dataset, folder, download)
    else:
        raise _unknown(dataset, folder)


def _prepare(dataset: str, folder: Path, download: bool) -> None:
    missing = not_prepared(dataset, folder)
    assert missing is not None
    if download:
        prepare_published(dataset, folder.parent, say, load_pickle)
        return
    by_hand = "--download" not in str(prepare_command(dataset))
    raise missing if by_hand else DataError(f"{missing}, or add --download=True to this command")


def _download(dataset: str, folder: Path, download: bool) -> None:
    say(f"{dataset} is not in {folder.parent}: it is downloaded from RecBole's address")
    try:
        download_atomic_files(dataset, recbole_addresses()[dataset], folder, say, any_size=download)
    except DownloadError as error:
        size = " Add --download=True to download it." if " GB" in str(error) else ""
        raise DownloadError(
            f"{error}{size} Without a network, put RecBole's atomic file {dataset}.inter into {folder}."
        ) from None


def _unknown(dataset: str, folder: Path) -> DataError:
    there = {path.parent.name for path in folder.parent.glob("*/*.inter")}
    close = close_names(dataset, {*there, *KNOWN_DATASETS, "ml-100k", *recbole_addresses()})
    meant = f"did you mean {close[0]}? Else " if close else ""
    return DataError(
        f"No data set {dataset} in {folder}: {meant}put RecBole's atomic file {dataset}.inter there, set "
        f"--data_path=<its parent folder>, or make it from a table with `recbole-kd prepare {dataset} --form=table "
        "--file=<csv> --user=<column> --item=<column>`"
    )
