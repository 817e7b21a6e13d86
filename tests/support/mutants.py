"""Small wrong changes, and which of them the tests notice.

``python tests/support/mutants.py [FIRST LAST]`` makes each change in a copy of the project, runs the tests that should
notice it, and counts those that fail (marker ``slow`` in tests/test_mutants.py). ``JSON=FILE`` writes the outcomes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("recbole_kd", "properties", "tests", "scripts", "docs")
SECONDS = 400
"""The most that the tests of one mutant may take; a mutant that hangs counts as noticed."""


@dataclass(frozen=True)
class Mutant:
    """A wrong change.

    Attributes:
        file: below recbole_kd. old, new: the text, which stands there once, and what replaces it. tests: files below
            tests that should notice it, the quickest first.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutant]:
    return [Mutant(file, old, new, tuple(tests.split())) for old, new in changes]


MUTANTS: list[Mutant] = [
    # losses
    *_of(
        "losses/cross_entropy.py",
        "losses/test_loss.py distiller/test_rcekd.py",
        ("masked_log_softmax(student / temperature, valid)", "masked_log_softmax(student * temperature, valid)"),
        ("masked_log_softmax(teacher / temperature, valid).exp()", "masked_log_softmax(teacher, valid).exp()"),
        ("torch.exp(-beta * overlap)", "torch.exp(beta * overlap)"),
        ("torch.log2(1.0 + ranks.to", "torch.log2(2.0 + ranks.to"),
        (".values == ranks.shape[1]", ".values >= ranks.shape[1]"),
        ("probabilities if valid is None else probabilities.masked_fill(~valid, 0.0)", "probabilities"),
    ),
    *_of(
        "losses/decoupled.py",
        "distiller/test_promptmm.py",
        ("temperature**2 * target_part", "temperature * target_part"),
        ("torch.softmax(logs, dim=0)", "torch.softmax(logs, dim=1)"),
    ),
    *_of(
        "losses/ranking.py",
        "losses/test_loss_ranking.py distiller/test_unkd.py distiller/test_cd.py",
        ("logsigmoid(better - worse)", "logsigmoid(worse - better)"),
        ("torch.sigmoid((teacher + t2) / t1)", "torch.sigmoid((teacher - t2) / t1)"),
        ("listed_exp.flip(2).cumsum(2).flip(2)", "listed_exp.cumsum(2)"),
        ("torch.tanh(mu * (rank - place))", "torch.tanh(mu * (place - rank))"),
    ),
    *_of(
        "losses/hetcomp.py",
        "distiller/test_hetcomp.py",
        ("tops.shape[1] // 10", "tops.shape[1] // 5"),
        ("2.0 * valid.to(scores.dtype)", "1.0 * valid.to(scores.dtype)"),
        ("torch.exp2(torch.exp(-place / DECAY)) - 1", "torch.exp2(torch.exp(-place / DECAY))"),
    ),
    *_of(
        "losses/embedding.py",
        "distiller/test_ftd.py distiller/test_htd.py distiller/test_de.py",
        ("(cosine > 0).view", "(cosine < 0).view"),
        ("return sums / sizes.unsqueeze(1)", "return sums"),
    ),
    *_of("losses/wasserstein.py", "distiller/test_tarec.py", ("cumsum(dim=1)[:, :-1].abs()", "cumsum(dim=1)[:, :-1]")),
    # item sets
    *_of(
        "distiller/rcekd.py",
        "distiller/test_rcekd.py",
        ("torch.stack([1 - self._gamma, self._gamma]", "torch.stack([self._gamma, 1 - self._gamma]"),
        ("total * batch.rows_per_query", "total"),
    ),
    *_of(
        "distiller/rcekd_sets.py",
        "distiller/test_rcekd.py",
        ("member[:, : rules.k] = False", "member[:, : rules.k] = True"),
        ("inclusive=True).clamp_(max=MAX_COUNT)", "inclusive=False).clamp_(max=MAX_COUNT)"),
        ("(counts / rules.tau)", "(counts * rules.tau)"),
        ("rest = missing & ~is_in(teacher_list, drawn)", "rest = missing"),
        ("shared = in_both if rules.paper", "shared = in_both if not rules.paper"),
    ),
    *_of(
        "distiller/rrd.py",
        "distiller/test_rrd.py",
        ("by_place = -torch.arange(", "by_place = torch.arange("),
        ("places.sort(dim=1).values if self.sort else places", "places"),
    ),
    *_of(
        "distiller/dcd.py",
        "distiller/test_dcd.py",
        ("over, _ = self._draw(-off,", "over, _ = self._draw(off,"),
        ("self.train_items if self.mask_student else None", "None"),
    ),
    *_of(
        "distiller/hetcomp.py",
        "distiller/test_hetcomp.py",
        ("self.alpha * SLACKENING ** (epoch // self.p)", "self.alpha * SLACKENING"),
        ("((ratio > threshold) | (ratio < 1))", "(ratio > threshold)"),
    ),
    *_of(
        "ops/sampling.py",
        "ops/test_sampling.py distiller/test_rrd.py",
        ("self.room = (n_items - 1) - counts", "self.room = n_items - counts"),
        ("log_().neg_().add_(log_weights)", "log_().add_(log_weights)"),
    ),
    *_of(
        "ops/order_statistics.py",
        "losses/test_loss.py distiller/test_rcekd.py ops/test_places.py",
        ("below if inclusive else below - member.to(below.dtype)", "below"),
    ),
    *_of(
        "distiller/base.py",
        "distiller/test_distiller_contracts.py",
        ('total if self.reduction == "sum" else total / weights.sum().clamp(min=1)', "total"),
    ),
    # gamma
    *_of(
        "distiller/rcekd_gamma.py",
        "distiller/test_rcekd.py distiller/test_epoch_schedules.py",
        ("return 1.0 - overlap", "return overlap"),
        ('share if rule == "increasing" else 1.0 - share', '1.0 - share if rule == "increasing" else share'),
        ("min(1.0, epoch / last_epoch)", "epoch / last_epoch"),
    ),
    # splits
    *_of(
        "data/exact_order.py",
        "data/test_time_order.py",
        ("super().sort(RAW_TIME if exact else by, ascending)", "super().sort(by, ascending)"),
        ("late = times[order] > boundary", "late = times[order] >= boundary"),
        ("self.inter_feat.sort_values(RAW_TIME,", "self.inter_feat.sort_values(self.time_field,"),
    ),
    *_of(
        "data/split_and_loaders.py",
        "cli/test_bad_input.py data/test_data_as_it_is.py",
        ("np.bincount(users).max() < splits.n_items", "np.bincount(users).max() <= splits.n_items"),
    ),
    # masks
    *_of(
        "ops/topk.py",
        "ops/test_topk.py scoring/test_scorer.py",
        ("scores[:, 0] = -torch.inf", "scores[:, 0] += 0"),
        ("scores[row, column] = -torch.inf", "scores[row, column] += 0"),
    ),
    *_of(
        "data/paper_protocol.py",
        "evaluation/test_evaluation.py",
        ("items[starts[user] : starts[user + 1]]", "items[starts[user] : starts[user]]"),
        ("loader.all_users = loader._dataset.user_num - 1", "loader.all_users = loader._dataset.user_num"),
    ),
    *_of(
        "serving/known_interactions.py",
        "serving/test_student.py",
        ('self.seen["part"] < self.tested.masked', 'self.seen["part"] <= self.tested.masked'),
    ),
    # evaluation
    *_of(
        "evaluation/full_ranking.py",
        "evaluation/test_evaluation.py scoring/test_sequential.py",
        ("scorer.n_items, k, history)", "scorer.n_items, k, None)"),
        ("-np.inf if self.trainer.valid_metric_bigger", "np.inf if self.trainer.valid_metric_bigger"),
    ),
    *_of("evaluation/loader_items.py", "evaluation/test_evaluation.py", ("(name, value * share)", "(name, value)")),
    *_of(
        "evaluation/train_ndcg.py",
        "evaluation/test_analysis.py",
        ("torch.arange(2, k + 2", "torch.arange(1, k + 1"),
    ),
    *_of(
        "evaluation/teacher_rank_curve.py",
        "evaluation/test_analysis.py",
        ("order, above + 1)", "order, above)"),
    ),
    # fingerprints and identities
    *_of(
        "data/fingerprint.py",
        "data/test_fingerprint.py teacher/test_teacher_stores.py data/test_order_of_histories.py",
        ("users * int(dataset.item_num) + items", "users + items"),
        ("kept.append(times[order])", "kept.append(times[order] * 0)"),
    ),
    *_of(
        "teacher/load.py",
        "teacher/test_teacher_stores.py data/test_time_order.py",
        ("    check_data(manifest, dataset)\n    scores", "    scores"),
        ("    _check_time_order(path, config, train)\n", ""),
    ),
    *_of(
        "pipeline/stages.py",
        "teacher/test_other_held_out.py storage/test_integrity.py",
        ("    teacher.check_data(splits.fingerprint)\n", ""),
        ("    teacher.check_data(context.splits.fingerprint)\n", ""),
    ),
    *_of(
        "pipeline/training_entries.py",
        "data/test_side_columns.py storage/test_cache.py data/test_order_of_histories.py",
        ('"settings": settings, "data": data_of(context, name)}', '"settings": settings, "data": {}}'),
        ('"columns": context.splits.side,', '"columns": None,'),
    ),
    # resuming
    *_of(
        "training/training_state.py",
        "training/test_resume.py",
        ('self.optimizer.load_state_dict(state["optimizer"])', "pass"),
        ('self.generator.set_state(state["loader_rng"].cpu())', "pass"),
    ),
    *_of(
        "training/random_state.py",
        "training/test_resume.py training/test_resume_sequential.py",
        ("np.random.set_state((", "tuple(("),
    ),
    *_of(
        "training/trajectory.py",
        "training/test_trajectory.py storage/test_integrity.py",
        ("or file_sha256(path) != digest", "or False"),
    ),
    *_of(
        "training/resume_state.py",
        "storage/test_integrity.py training/test_resume.py",
        ('if state["identity"] != self._identity', "if False"),
        ('if file_sha256(best) != state["best_sha256"]', "if False"),
    ),
    # reading files safely
    *_of(
        "integration/pickled_tensors.py",
        "integration/test_torch_archive.py integration/test_safe_load.py",
        ("last >= available", "last > available"),
        ("    _no_hooks(hooks)\n    (offset,)", "    (offset,)"),
    ),
    *_of(
        "integration/restricted_unpickler.py",
        "integration/test_safe_load.py",
        ('raise RefusedError(f"{module}.{name}")', "return Reference(*key)"),
    ),
    *_of(
        "integration/torch_archive.py",
        "integration/test_torch_archive.py integration/test_safe_load.py",
        ("if not folder or name in found or", "if not folder or"),
        ('"constants.pkl" in found', '"constants.pk" in found'),
    ),
    *_of(
        "storage/integrity.py",
        "storage/test_integrity.py",
        ("content[OWN_SHA256] != _json_sha256(rest)", "False"),
        ('if size != record["size"]:', "if False:"),
    ),
]


def copy_of_the_project(folder: Path) -> Path:
    """Return a copy of the project in which a change does no harm."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "campaign"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder / path.name)
    return folder


def notices(project: Path, mutant: Mutant) -> bool:
    """Make the change in the copy, run its tests in a process of their own, and take the change back."""
    path = project / "recbole_kd" / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return _fails(project, [f"tests/{name}" for name in mutant.tests])
    finally:
        path.write_text(before, encoding="utf-8")


def _fails(project: Path, tests: list[str]) -> bool:
    """Run tests in a child that shares what is imported here; True if one fails or they take too long."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setpgid(0, 0)
            os.chdir(project)
            sys.path.insert(0, str(project))
            os.environ["PYTHONPATH"] = str(project)
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the child ends with it
            import pytest

            code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]))
        finally:
            os._exit(code)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    print(f"after {SECONDS} s not ended: {' '.join(tests)}", flush=True)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return True


def run(chosen: list[Mutant]) -> dict[str, bool]:
    """Return for each mutant whether its tests notice it; the tests pass without it, or AssertionError."""
    import numpy  # noqa: F401 - imported once, before the children; not recbole_kd, which each reads changed
    import pandas  # noqa: F401
    import scipy.sparse  # noqa: F401
    import torch  # noqa: F401

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_the_project(Path(folder))
        for mutant in chosen:
            name = f"{mutant.file}: {mutant.old.strip()} -> {mutant.new.strip() or 'nothing'}"
            found[name] = notices(project, mutant)
            print(f"{'noticed ' if found[name] else 'SURVIVES'} {name}", flush=True)
        for name in sorted({name for mutant in chosen for name in mutant.tests}):
            assert not _fails(project, [f"tests/{name}"]), f"tests/{name} fails without a change too"
    return found


if __name__ == "__main__":
    first, last = (int(word) for word in sys.argv[1:3]) if len(sys.argv) > 2 else (0, len(MUTANTS))
    outcomes = run(MUTANTS[first:last])
    print(f"{sum(outcomes.values())} of {len(outcomes)} noticed")
    if os.environ.get("JSON"):
        Path(os.environ["JSON"]).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
