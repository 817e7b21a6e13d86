"""Errors that a user can act on; messages name the value, what was allowed and the fix.

The command line prints the sentence and exits with code 2; the API raises the class.
"""

from __future__ import annotations


class KDError(Exception):
    """Base of every error that recbole_kd raises for bad input or a failed run."""


class ConfigError(KDError, ValueError):
    """A key or a value of the configuration is unknown, mistyped or out of range."""


class ArgumentError(ConfigError, TypeError):
    """An argument of a Python function is not the kind of object that the function takes."""


class DataError(KDError, ValueError):
    """The data set is missing, not prepared, malformed, or has nothing to validate on."""


class DownloadError(DataError):
    """A file cannot be downloaded, or it is not the file that was published."""


class TeacherError(KDError, ValueError):
    """A teacher is missing, damaged, unsafe to read, or made on other data."""


class UnreadableFileError(TeacherError, OSError):
    """A checkpoint cannot be opened, such as a folder, or one that may not be read."""


class MissingFileError(UnreadableFileError, FileNotFoundError):
    """A checkpoint is not there; code that expects Python's own error of a missing file catches it too."""


class TrainingError(KDError, RuntimeError):
    """Training cannot go on, such as after a loss that is not a finite number."""


class DivergedError(TrainingError):
    """A loss or a score of a model in training is inf or nan."""


class LostProcessError(TrainingError):
    """One of several processes that trained together was lost; the saved state can be resumed."""


class ClusterError(ConfigError, LostProcessError):
    """A Ray cluster cannot take the processes of a training; a saved state can be resumed."""


class StudentError(KDError, ValueError):
    """A student's folder is missing, damaged or outdated, or its model cannot be exported."""


class UnknownIdError(KDError, LookupError):
    """A student is asked about users or items that it does not know."""


class StorageError(KDError):
    """A disk is full; the saved state of a training can be resumed."""


class TargetError(KDError, ValueError):
    """A path to be written holds something that this project did not make; it stays unchanged."""
