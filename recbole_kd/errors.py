"""The errors a user can act on: one sentence that names the value, what was allowed and the fix.

The command line prints the sentence and exits with code 2; the API raises the class.
"""

from __future__ import annotations


class KDError(Exception):
    """Base of every error that recbole_kd raises for bad input or a failed run."""


class ConfigError(KDError, ValueError):
    """A key or a value of the configuration is unknown, mistyped or out of range."""


class DataError(KDError, ValueError):
    """The data set is missing, not prepared, malformed, or has nothing to validate on."""


class TeacherError(KDError, ValueError):
    """A teacher is missing, damaged, unsafe to read, or made on other data."""


class TrainingError(KDError, RuntimeError):
    """Training cannot go on: a loss is not a finite number."""


class LostProcessError(TrainingError):
    """One of several processes that trained together was lost; what was kept of the training can be continued."""


class StudentError(KDError, ValueError):
    """A student's folder is missing, damaged, of another version, or cannot be made of this model."""


class UnknownIdError(KDError, LookupError):
    """A student is asked about users or items that it does not know."""


class StorageError(KDError):
    """There is no room on a disk; what was kept of a training can be continued."""


class TargetError(KDError, ValueError):
    """A path to be written holds something that this project did not make; it was left as it was."""
