"""RecBole's Config, built from arguments only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_kd.config.merging import MERGED
from recbole_kd.config.parsing import loaded_once
from recbole_kd.errors import ConfigError, KDError


@contextmanager
def refusals_said(what: str) -> Iterator[None]:
    """Turn RecBole's refusals of a configuration into ConfigError, with RecBole's own words."""
    try:
        yield
    except KDError:
        raise
    except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, AssertionError, OSError) as error:
        words = " ".join(str(error.args[0] if error.args else type(error).__name__).split())
        raise ConfigError(f"RecBole refuses the configuration {what}: {words}") from error


class KDConfig(Config):
    """RecBole's Config that reads only its arguments.

    RecBole's own class reads ``sys.argv`` in every instance, so that a second Config (the teacher's) would take the
    student's keys, and it evaluates text as Python. This class merges RecBole's property files < ``defaults`` <
    ``given``.

    Args:
        model, dataset: names. defaults: our property files, merged. given: the user's settings, from any source.

    Raises:
        ConfigError: RecBole refuses a value; the message has RecBole's reason.
    """

    def __init__(self, model: str, dataset: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self._defaults = dict(defaults)
        with refusals_said(f"of {model}"):
            super().__init__(model=model, dataset=dataset, config_dict=dict(given))

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _update_internal_config_dict(self, file: str) -> dict[str, Any] | None:
        """Add the keys of one of RecBole's property files, which are the same for each Config of a run."""
        content: dict[str, Any] | None = loaded_once(Path(file).read_text(encoding="utf-8"), self.yaml_loader)
        self.internal_config_dict.update(content or {})
        return content

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(model, model_class, dataset)
        self.internal_config_dict.update(self._defaults)
        for key in MERGED:
            given = self.external_config_dict.get(key)
            if isinstance(given, dict) and isinstance(self.internal_config_dict.get(key), dict):
                self.external_config_dict[key] = {**self.internal_config_dict[key], **given}

    def plain(self) -> Config:
        """Return the same values as RecBole's own class.

        Checkpoints pickle their Config, and any RecBole project must be able to read it.
        """
        plain = Config.__new__(Config)
        plain.__dict__.update({key: value for key, value in self.__dict__.items() if key != "_defaults"})
        return plain


def make_config(model: str, dataset: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Config:
    """Return a RecBole Config built from arguments only; see :class:`KDConfig`."""
    return KDConfig(model, dataset, defaults, given).plain()
