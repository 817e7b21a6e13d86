"""Build a distiller from a RecBole configuration.

Only this module turns ``kd_*`` keys into constructor arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import torch
from torch import nn

from recbole_kd.config.argument_kinds import CONFIG, DATA, MODEL, takes
from recbole_kd.config.key_rules import check_index_keys, index_kind
from recbole_kd.config.known_keys import check_keys
from recbole_kd.config.property_layers import distiller_layers, public_name
from recbole_kd.config.schema import AUTO_WEIGHT, DEFAULT_WEIGHT, KD_RUN_KEYS, check_values
from recbole_kd.data.histories.recbole_rows import sequence_queries
from recbole_kd.distiller.base import Distiller
from recbole_kd.distiller.registry import check_idle, check_options, distiller_class, distiller_options
from recbole_kd.distiller.small_data import cut_defaults, words_of_cut
from recbole_kd.errors import ConfigError, TeacherError
from recbole_kd.model.loss_reduction import reduction_of
from recbole_kd.scoring.candidate_index import CandidateIndex, load_faiss
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.scoring.vector_models import has_vectors
from recbole_kd.teacher.base import TEACHER, TeacherScores
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.teacher.stores.remapped import N_USERS, asked_as
from recbole_kd.training.compiled_loss import check_compiler, compile_loss

RUN_DEFAULTS: Mapping[str, Any] = {
    "kd_weight": 1.0,
    "kd_weight_scale": "published",
    "kd_refresh": 1,
    "kd_compile": False,
    "kd_compare": True,
    "kd_track": [],
}


def known_kd_keys(kd: str) -> set[str]:
    """Return all ``kd_*`` keys that a run with this method may set."""
    return {*KD_RUN_KEYS, *(f"kd_{name}" for name in distiller_options(distiller_class(kd)))}


def check_distiller(kd: str, values: Mapping[str, Any], n_queries: int, n_items: int) -> dict[str, Any]:
    """Return the constructor arguments of a method, checked before anything is trained.

    Args:
        kd: name of the method.
        values: configuration with ``kd_*`` keys.
        n_queries, n_items: sizes of the data without the pad.

    Raises:
        ConfigError: a value has a wrong type or is out of range.
    """
    cls = distiller_class(kd)
    context = {"n_items": n_items, "nlist": values.get("kd_nlist")}
    check_values({key: values[key] for key in KD_RUN_KEYS if key in values}, RUN_DEFAULTS, context=context)
    check_index_keys(values)
    options = check_options(
        cls, {name[3:]: v for name, v in values.items() if name.startswith("kd_")}, n_queries, n_items
    )
    _check_effects(kd, cls, values, options)
    return options


def _check_effects(kd: str, cls: type[Distiller], values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse run-level keys that have no effect on a method with these options (ConfigError)."""
    own = "".join(f" and kd_{name}={options[name]}" for name in ("guide", "variant") if name in options)
    refresh, kind = values.get("kd_refresh", 1), index_kind(values)
    if refresh != 1 and not cls.draws(options):
        raise ConfigError(
            f"kd_refresh={refresh} has no effect with kd={kd}{own}, which never redraws item sets: leave it out"
        )
    if kind != "none" and not cls.asks_student(options) and not values.get("kd_index_teacher"):
        raise ConfigError(
            f"kd_candidate_index={kind} has no effect with kd={kd}{own}, which never ranks the student's items: leave "
            "it out"
        )


def check_index(values: Mapping[str, Any], kd: str, student: type) -> None:
    """Refuse an index that the method or the student cannot use (ConfigError)."""
    kind = index_kind(values)
    if kind == "none":
        return
    load_faiss(kind)
    if not distiller_class(kd).ranks_student:
        raise ConfigError(
            f"kd_candidate_index={kind} has no effect with kd={kd}, which never ranks the student's items: leave it out"
        )
    if not has_vectors(student):
        raise ConfigError(
            f"kd_candidate_index={kind} is not possible with {public_name(student.__name__)}, whose score is not a dot "
            "product of vectors: take kd_candidate_index=none"
        )


@takes(config=CONFIG, student=MODEL, teacher=TEACHER, train_data=DATA.or_none())
def build_distiller(config: Any, student: nn.Module, teacher: TeacherScores, train_data: Any = None) -> Distiller:
    """Build the distiller that a configuration names, for a student and a teacher.

    Args:
        config: RecBole's Config, or any mapping-like object with ``config[key]``. It holds ``kd``, ``seed``, and the
            ``kd_*`` keys that differ from the property file.
        student: the RecBole model to be trained.
        teacher: its scores, see :func:`recbole_kd.load_teacher`.
        train_data: the student's training loader, from RecBole's ``data_preparation`` or ours. A sequential student
            needs it.

    Returns:
        the distiller, with the weight, the refresh interval and the reduction of the configuration.

    Raises:
        ConfigError: the method or an option is unknown, ``kd_weight`` is ``auto``, or a sequential student has no
            training data.
        TeacherError: teacher and student have different numbers of users or items.

    Examples:
        >>> config = Config(model="MF", dataset="tiny", config_dict={**keys, "kd": "RCEKD", "kd_weight": 5})
        >>> data = recbole_kd.prepare_data(config)
        >>> student = get_model("MF")(config, data.train.dataset)
        >>> teacher = recbole_kd.load_teacher(teacher_path, data.train)
        >>> distiller = recbole_kd.build_distiller(config, student, teacher)
        >>> type(distiller).__name__, distiller.weight
        ('RCEKD', 5.0)
    """
    kd = _get(config, "kd")
    if kd is None or (isinstance(kd, str) and not kd):
        raise ConfigError("the configuration names no method: set kd, such as kd='RCEKD'")
    cls = distiller_class(kd)
    missing = [key for key in ("model", "dataset") if not isinstance(_get(config, key), str)]
    if missing:
        raise ConfigError(f"the configuration names no {missing[0]}: set {missing[0]}, or give RecBole's Config")
    given = getattr(config, "final_config_dict", config)
    if isinstance(given, Mapping):
        named = [key for key in given if isinstance(key, str) and key.startswith("kd_")]
        check_keys(named, known_kd_keys(kd), what=f"key of the method {kd}", may_allow=False)
    given_teacher = teacher
    scorer, teacher = _asking(student, teacher, train_data)
    if (scorer.n_queries, scorer.n_items) != (teacher.n_queries, teacher.n_items):
        raise TeacherError(
            f"The teacher {teacher.name} has {teacher.n_queries - 1} users and {teacher.n_items - 1} items, the "
            f"student {scorer.n_queries - 1} and {scorer.n_items - 1}: they were made on different data or filters"
        )
    values: dict[str, Any] = dict(RUN_DEFAULTS)
    published = distiller_layers(kd, config["dataset"], config["model"], teacher.name)[0]
    _warn_of_other_keys(config, published, f"{kd} of {config['model']} under {teacher.name} on {config['dataset']}")
    values.update(published)
    given_keys = [key for key in known_kd_keys(kd) if key in config and _is_given(config, key)]
    values.update({key: config[key] for key in given_keys if config[key] != DEFAULT_WEIGHT or key != "kd_weight"})
    if values["kd_weight"] == AUTO_WEIGHT and "kd_weight" not in getattr(config, "external_config_dict", config):
        values["kd_weight"] = RUN_DEFAULTS["kd_weight"]  # overall.yaml says it, not the user
    sizes = scorer.n_queries - 1, scorer.n_items - 1
    cut = cut_defaults(cls, values, getattr(config, "external_config_dict", config), *sizes)
    values.update({key: limit for key, (_, limit, _) in cut.items()})
    options = check_distiller(kd, values, *sizes)
    if cut:
        getLogger().warning(words_of_cut(cut))
    if isinstance(config, Mapping):  # a Config was checked when it was made
        check_idle(cls, {key: value for key, value in config.items() if key in values}, published)
    check_index(values, kd, type(student))
    check_compiler(values)
    scorer.index = _index(values, _get(config, "seed")) if cls.asks_student(options) else None
    _index_teacher(given_teacher, values, _get(config, "seed"))
    cls.check_teacher(teacher, options)
    _say_coverage(teacher)
    distiller = cls(scorer, teacher, seed=_get(config, "seed") or 0, **options)
    if values["kd_weight"] == AUTO_WEIGHT:
        raise no_auto_weight("the distiller is built for one training")
    distiller.weight = float(values["kd_weight"])
    distiller.weight_scale = values["kd_weight_scale"]
    distiller.refresh = values["kd_refresh"]
    distiller.reduction = reduction_of(student, _get(config, "loss_reduction"))
    if values["kd_compile"]:
        compile_loss(distiller)
    return distiller


def _say_coverage(teacher: TeacherScores) -> None:
    """Log how many queries have no KD term, if any."""
    if teacher.covered is None or bool(teacher.covered[1:].all()):
        return
    n, covered = len(teacher.covered) - 1, int(teacher.covered[1:].sum())
    getLogger().info(
        f"The teacher {teacher.name} covers {covered:,} of {n:,} queries; the other {n - covered:,} train on the base "
        "loss alone"
    )


def _is_given(config: Any, key: str) -> bool:
    """Return whether a key comes from the user.

    In a Config of RecBole's functions, defaults are overridden by the property file of the pair.
    """
    return not _get(config, "recbole_data") or key in config.external_config_dict


def _warn_of_other_keys(config: Any, published: Mapping[str, Any], pair: str) -> None:
    """Warn of published keys that this Config does not follow.

    These are keys of the base training that were published together with a pair's ``kd_*`` keys. A key that the user
    gave stays as it is, without a warning.
    """
    given = getattr(config, "external_config_dict", {})
    other = {
        key: value
        for key, value in published.items()
        if not key.startswith("kd") and key not in given and _get(config, key) != value
    }
    if other:
        listed = ", ".join(f"{key}={_get(config, key)} (published: {value})" for key, value in other.items())
        getLogger().warning(
            f"The kd_* keys published for {pair} apply, the keys published with them do not: {listed}. "
            f"Put them into the Config before the model is built, config_dict={other}, or give your own values there"
        )


def _index(values: Mapping[str, Any], seed: int | None) -> CandidateIndex | None:
    kind = index_kind(values)
    return None if kind == "none" else CandidateIndex(kind, values.get("kd_nlist"), values.get("kd_nprobe"), seed or 0)


def _index_teacher(teacher: TeacherScores, values: Mapping[str, Any], seed: int | None) -> None:
    """Give each teacher its own index if ``kd_index_teacher`` is set, else remove it."""
    for member in teacher.members:
        if isinstance(member, FactorScores):
            member.index = _index(values, seed) if values.get("kd_index_teacher") else None
        elif values.get("kd_index_teacher"):
            raise no_teacher_index(member.name, member.store)


def no_teacher_index(name: str, store: str) -> ConfigError:
    """Return the error for ``kd_index_teacher`` with a teacher that keeps no vectors."""
    return ConfigError(
        f"kd_index_teacher=True is not possible with {name} in a store of kind {store}: take teacher_store=factors, "
        "for a teacher whose score is a dot product, or leave it out"
    )


def no_auto_weight(reason: str) -> ConfigError:
    """Return the error for ``kd_weight=auto`` outside a run; ``reason`` ends with a clause."""
    return ConfigError(
        f"kd_weight={AUTO_WEIGHT} is not possible here, because {reason}: give a number, or run recbole-kd, which "
        "chooses it"
    )


def _asking(student: nn.Module, teacher: TeacherScores, train_data: Any) -> tuple[Scorer, TeacherScores]:
    """Return student and teacher with the ids of the student's queries.

    See :mod:`recbole_kd.scoring.scorer`.
    """
    queries = sequence_queries(train_data)
    if queries is not None:
        rows = queries.training_rows()
        return Scorer(student, rows), asked_as(teacher, rows.users, queries.query_ids)
    scorer = Scorer(student)
    if any(member.manifest.get(N_USERS) == scorer.n_queries for member in teacher.members):
        users = torch.arange(scorer.n_queries)
        return scorer, asked_as(teacher, users, users)
    return scorer, teacher


def _get(config: Any, key: str) -> Any:
    """Return a key's value, or None if the key is unknown.

    RecBole's Config has no ``get``. It returns None for an unknown key, but a mapping raises.
    """
    return config[key] if key in config else None  # noqa: SIM401
