"""The sequential setting: one split for all models, histories as queries, and who is asked about what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset
from recbole.data.dataset import Dataset
from recbole.trainer import Trainer
from recbole.utils import init_seed

import recbole_kd
from recbole_kd.cli.run import main
from recbole_kd.data.fingerprint import data_fingerprint
from recbole_kd.data.fingerprint_comparison import without_histories
from recbole_kd.data.histories.sequence_dataset import universe_of
from recbole_kd.data.split_and_loaders import make_loaders, split_data
from recbole_kd.data.train_items import query_items, train_items
from recbole_kd.errors import ConfigError, DataError
from recbole_kd.evaluation import full_ranking
from recbole_kd.evaluation.full_ranking import evaluate_by_full_ranking
from recbole_kd.scoring.scorer import Scorer
from recbole_kd.teacher.stores.factors import FactorScores
from recbole_kd.teacher.stores.remapped import N_USERS, asked_as
from recbole_kd.training.build_distiller import build_distiller
from recbole_kd.training.trainer import KDTrainer
from tests.support.helpers import (
    SEQUENTIAL,
    Case,
    TinyData,
    build_case,
    build_config,
    build_model,
    dataset_of,
    scorer_of,
    write_tiny,
)
from tests.support.runs import results, words

LEAVE_ONE_OUT: Any = SEQUENTIAL["eval_args"]
STUDENTS = ("SASRec", "GRU4Rec", "HSTU")


def plain_rows(dataset: Any) -> set[tuple[int, tuple[int, ...], int]]:
    """(user, history, target) of each row of RecBole's sequential data, whatever their order."""
    rows = dataset.inter_feat
    columns = (rows["user_id"], rows["item_id_list"], rows["item_length"], rows["item_id"])
    return {(int(u), tuple(h[:n].tolist()), int(t)) for u, h, n, t in zip(*columns, strict=True)}


def user_teacher(case: Case, d: int = 6) -> FactorScores:
    generator = torch.Generator().manual_seed(2)
    n_users, n_items = case.splits.n_users + 1, case.splits.n_items + 1
    return FactorScores(
        torch.randn(n_users, d, generator=generator), torch.randn(n_items, d, generator=generator), {"model": "MF"}
    )


# -- data
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 50])
def test_rows_are_recboles_own(tiny_dataset: TinyData, length: int) -> None:
    config = build_config(tiny_dataset, "SASRec", MAX_ITEM_LIST_LENGTH=length)
    theirs = create_dataset(config).build()
    loaders = make_loaders(config, split_data(config))
    for own, other in zip((loaders.train, loaders.valid, loaders.test), theirs, strict=True):
        assert len(dataset_of(own)) == len(other) and plain_rows(dataset_of(own)) == plain_rows(other)


@pytest.mark.parametrize("model", ["MF", "SASRec", "HSTU"])
def test_one_split_and_one_fingerprint_for_every_model(tiny_dataset: TinyData, model: str) -> None:
    case = build_case(tiny_dataset, model, eval_args=LEAVE_ONE_OUT)
    plain = build_config(tiny_dataset, "MF", eval_args=LEAVE_ONE_OUT)
    dataset = Dataset(plain)
    train, valid, test = dataset.build()
    assert without_histories(case.splits.fingerprint) == data_fingerprint(train, valid, test, full=dataset)
    of_loader = data_fingerprint(train=case.loaders.train)
    assert {part: of_loader[part] for part in ("train", "histories")} == {
        part: case.splits.fingerprint[part] for part in ("train", "histories")
    }
    assert torch.equal(train_items(case.loaders.train).items, train_items(train).items)


def test_users_of_few_items_lose_none(tmp_path: Path) -> None:
    """Of three items one is for training, where RecBole's own sequential split has no validation item; of one, all."""
    (tmp_path / "few").mkdir()
    lines = [f"{user}\ti{item}\t{item}" for user, n in (("a", 1), ("b", 2), ("c", 3), ("d", 5)) for item in range(n)]
    (tmp_path / "few" / "few.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
    )
    case = build_case(TinyData(str(tmp_path), "few"), "SASRec", topk=[2], eval_batch_size=8)
    name, item = case.splits.dataset.field2id_token["user_id"], case.splits.dataset.field2id_token["item_id"]

    def words_of(loader: Any) -> set[tuple[str, str, str]]:
        return {(name[u], "".join(item[i][1] for i in h), item[t][1]) for u, h, t in plain_rows(dataset_of(loader))}

    assert words_of(case.loaders.train) == {("d", "0", "1"), ("d", "01", "2")}
    assert words_of(case.loaders.valid) == {("c", "0", "1"), ("d", "012", "3")}
    assert words_of(case.loaders.test) == {("b", "0", "1"), ("c", "01", "2"), ("d", "0123", "4")}


def test_a_split_with_more_to_ask_is_refused(tiny_dataset: TinyData) -> None:
    config = build_config(tiny_dataset, "SASRec", eval_args={**LEAVE_ONE_OUT, "split": {"RS": [0.5, 0.25, 0.25]}})
    with pytest.raises(DataError, match=r"leaves some users more: set eval_args\.split"):
        make_loaders(config, split_data(config))


def test_a_shuffled_split_is_refused(tiny_dataset: TinyData) -> None:
    config = build_config(tiny_dataset, "SASRec", eval_args={**LEAVE_ONE_OUT, "order": "RO"})
    with pytest.raises(ConfigError, match=r"order=RO is not possible with SASRec, .* set eval_args\.order=TO"):
        make_loaders(config, split_data(config))


def test_without_a_time_column_the_files_order_counts(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    lines = [f"u{user}\ti{(3 * step + user) % 7}" for step in range(5) for user in range(6)]
    (tmp_path / "bare" / "bare.inter").write_text("\n".join(["user_id:token\titem_id:token", *lines]) + "\n")
    given = {"load_col": {"inter": ["user_id", "item_id"]}, "eval_batch_size": 8, "topk": [2]}
    case = build_case(TinyData(str(tmp_path), "bare"), "HSTU", **given)
    item = case.splits.dataset.field2id_token["item_id"]
    histories = {tuple(item[i] for i in (*h, t)) for _, h, t in plain_rows(dataset_of(case.loaders.test))}
    assert histories == {tuple(f"i{(3 * step + user) % 7}" for step in range(5)) for user in range(6)}


def test_a_time_column_that_is_not_read_is_not_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--setting=sequential", "--load_col={inter: [user_id, item_id]}")
    given = [word for word in command(tmp_path, "MF", "LightGCN", "CE") if not word.startswith("--load_col")]
    assert main([*given, *more]) == 2
    said = capsys.readouterr().err
    assert "order of a user's items is that of timestamp" in said and "TIME_FIELD" in said and "Traceback" not in said
    assert main([*given, *more, "--TIME_FIELD=order_of_the_file"]) == 0


# -- queries
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", STUDENTS)
def test_queries_in_training_are_the_rows_of_the_batch(tiny_dataset: TinyData, model: str) -> None:
    case = build_case(tiny_dataset, model)
    rows, seen = dataset_of(case.loaders.train).training_rows(), query_items(case.loaders.train)
    batch = next(iter(case.loaders.train))
    for query, user, history, length, target in zip(
        *(batch[name] for name in ("kd_query", "user_id", "item_id_list", "item_length", "item_id")), strict=True
    ):
        own = rows.interaction(query.unsqueeze(0))
        assert int(own["user_id"]) == int(user) and torch.equal(own["item_id_list"][0], history)
        expected = {*history[:length].tolist(), int(target)}
        assert set(seen.items[seen.starts[query] : seen.starts[query + 1]].tolist()) == expected
        assert model != "HSTU" or int(query) == int(user)
    assert int(rows.users[0]) == 0 and len(rows) == scorer_of(case).n_queries


@pytest.mark.parametrize(
    "model", [*STUDENTS, "STAMP", "NARM", "NextItNet", "LightSANs", "Caser", "TransRec", "HSTUGeneral"]
)
def test_scores_are_the_models_own(tiny_dataset: TinyData, model: str) -> None:
    case = build_case(tiny_dataset, model)
    scorer, queries = scorer_of(case), torch.tensor([1, 4, 2, 7])
    assert scorer.has_vectors == (model != "TransRec")
    case.model.eval()
    expected = case.model.full_sort_predict(scorer._own.interaction(queries)).view(4, -1)
    items = torch.tensor([[1, 5, 9]]).expand(4, 3)
    torch.testing.assert_close(scorer.full(queries), expected)
    torch.testing.assert_close(scorer.at(queries, items), expected.gather(1, items))
    some, every = scorer.top_k(queries, 3), scorer.top_k(torch.arange(scorer.n_queries), 3)
    assert torch.equal(some[0], every[0][queries])
    torch.testing.assert_close(some[1], every[1][queries])


@pytest.mark.parametrize("model", [*STUDENTS, "HGN", "HSTUGeneral"])
def test_a_step_encodes_once_and_only_its_batch(
    tiny_dataset: TinyData, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base loss and KD terms share one encoding with one dropout mask, and no other history is encoded."""
    case = build_case(tiny_dataset, model, **({"input_dropout": 0.5, "linear_dropout": 0.5} if "HSTU" in model else {}))
    distiller = build_distiller(case.config_with_kd, case.model, user_teacher(case), case.loaders.train)  # type: ignore[attr-defined]
    trainer = KDTrainer(case.config, case.model, distiller)
    trainer.prepare(case.loaders.train)
    assert trainer._loader is not None
    distiller.begin_epoch(0)
    trainer._loader.ask_teacher()
    batch = next(iter(trainer._loader))
    name = "encode" if "HSTU" in model else "forward"
    encoded, plain = [], getattr(type(case.model), name)

    def counted(self: Any, *args: Any) -> Any:
        encoded.append(len(args[0]))
        return plain(self, *args)

    monkeypatch.setattr(type(case.model), name, counted)
    case.model.train()
    base, kd = trainer._losses(batch)
    assert encoded == [len(batch)] and name not in vars(case.model)
    (base + kd).backward()
    scorer, queries = distiller.student_scorer, batch.kd.queries
    with scorer.step(batch):
        case.model.calculate_loss(batch)
        first, second = (scorer.full(queries) for _ in range(2))
    assert (torch.equal(first, second) and not torch.equal(first, scorer.full(queries))) or model == "HGN"


@pytest.fixture(autouse=True)
def _config_with_kd(monkeypatch: pytest.MonkeyPatch) -> None:
    """``case.config_with_kd``: the values of a run with CE on short lists."""
    values = {"kd": "CE", "kd_k": 4, "kd_weight": 1.0, "seed": 0}
    monkeypatch.setattr(
        Case,
        "config_with_kd",
        property(lambda case: {**values, "dataset": "tiny", "model": case.config["model"]}),
        raising=False,
    )


# -- teachers
# ------------------------------------------------------------------------------------------------------------


def naive_history(case: Case, query: int) -> tuple[int, ...]:
    row = dataset_of(case.loaders.train).training_rows().interaction(torch.tensor([query]))
    return tuple(i for i in row["item_id_list"][0].tolist() if i)


@pytest.mark.parametrize("student", STUDENTS)
def test_a_general_teacher_answers_with_the_user_of_a_row(tiny_dataset: TinyData, student: str) -> None:
    case = build_case(tiny_dataset, student)
    teacher = user_teacher(case)
    asked = build_distiller(case.config_with_kd, case.model, teacher, case.loaders.train).teacher_scores  # type: ignore[attr-defined]
    rows = dataset_of(case.loaders.train).training_rows()
    queries = torch.arange(len(rows))
    assert asked.name == "MF" and asked.n_queries == len(rows)
    torch.testing.assert_close(asked.full(queries), teacher.full(rows.users))
    seen = query_items(case.loaders.train)
    for exclude in (None, seen):
        ids, scores = asked.top_k(queries, 5, exclude)
        torch.testing.assert_close(scores, asked.at(queries, ids).masked_fill(scores == -torch.inf, -torch.inf))
        assert exclude is None or not exclude.contains(queries[1:], ids[1:]).logical_and(ids[1:] > 0).any()
    found = asked.embeddings()
    assert found is not None
    torch.testing.assert_close(found[0] @ found[1].T, asked.full(queries))


@pytest.mark.parametrize("student", [*STUDENTS, "MF"])
@pytest.mark.parametrize("model", ["SASRec", "HSTU"])
def test_a_sequential_teacher_answers_about_the_same_history(
    tiny_dataset: TinyData, model: str, student: str, tmp_path: Path
) -> None:
    """A general student's query is the user's whole training history, that of the validation row."""
    case = build_case(tiny_dataset, model, MAX_ITEM_LIST_LENGTH=20)
    rows = universe_of(case.loaders.train)
    scorer = Scorer(case.model, rows)
    with scorer.frozen():
        tables = [table.clone() for table in scorer.tables()]
    assert rows is not None and rows.n_whole == case.splits.n_users + 1
    teacher = FactorScores(*tables, {"model": model, N_USERS: rows.n_whole})
    other = build_case(tiny_dataset, student, eval_args=LEAVE_ONE_OUT, MAX_ITEM_LIST_LENGTH=16)
    asked = build_distiller(other.config_with_kd, other.model, teacher, other.loaders.train).teacher_scores  # type: ignore[attr-defined]
    if student == "MF":
        valid = dataset_of(case.loaders.valid)
        expected, queries = valid.inter_feat, valid.inter_feat["user_id"]
        if model == "HSTU":  # the validation row also knows when it was asked: the item itself is then at that time
            expected["raw_time"] = (
                expected["raw_time_list"].gather(1, expected["item_length"].unsqueeze(1) - 1).squeeze(1)
            )
    else:
        queries = torch.tensor([1, 3, 8, 20])
        expected = dataset_of(other.loaders.train).training_rows().interaction(queries)
        assert all(
            len(naive_history(other, int(q))) == int(n) for q, n in zip(queries, expected["item_length"], strict=True)
        )
        for name in ("item_id_list", "raw_time_list"):  # the student's histories, as wide as the teacher's
            expected[name] = torch.nn.functional.pad(expected[name], (0, 4))
    case.model.eval()
    torch.testing.assert_close(
        asked.full(queries), case.model.full_sort_predict(expected).detach(), rtol=1e-4, atol=1e-5
    )


def test_a_student_that_asks_too_much_is_told() -> None:
    teacher = FactorScores(torch.randn(5, 2), torch.randn(4, 2), {"model": "MF"})
    with pytest.raises(
        recbole_kd.errors.TeacherError, match="MF answers about 5 queries and the student asks about query 7"
    ):
        asked_as(teacher, torch.tensor([0, 7]), torch.tensor([0, 1]))


def test_a_sequential_student_needs_its_data(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "SASRec")
    with pytest.raises(ConfigError, match=r"SASRec is a sequential model.*train_data"):
        build_distiller(case.config_with_kd, case.model, user_teacher(case))  # type: ignore[attr-defined]


# -- training and evaluation
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*STUDENTS, "SHAN", "TransRec"])
def test_weight_0_is_recboles_own_training(tiny_dataset: TinyData, model: str, tmp_path: Path) -> None:
    ends = []
    for kd in (False, True):
        config = build_config(tiny_dataset, model, epochs=3, checkpoint_dir=str(tmp_path / str(kd)))
        splits = split_data(config)
        student = build_model(config, splits)
        init_seed(4, True)
        loaders = make_loaders(config, splits)
        case = Case(config, splits, loaders, student)
        trainer: Trainer = Trainer(config, student)
        if kd:
            values = {**case.config_with_kd, "kd_weight": 0.0}  # type: ignore[attr-defined]
            trainer = KDTrainer(config, student, build_distiller(values, student, user_teacher(case), loaders.train))
        init_seed(4, True)
        trainer.fit(loaders.train, loaders.valid, saved=True, show_progress=False, verbose=False)
        ends.append((trainer.evaluate(loaders.test, load_best_model=True), student.state_dict()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    for name, tensor in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("protocol", ["recbole", "paper"])
@pytest.mark.parametrize("model", [*STUDENTS, "FPMC", "TransRec"])
def test_both_ways_to_evaluate_agree_and_the_paper_masks_training_items(
    tmp_path: Path, model: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tiny(tmp_path, "tiny")
    with (tmp_path / "tiny" / "tiny.inter").open("a", encoding="utf-8") as file:
        file.write("short\ti3\t1\n")  # a user with nothing to be tested on, who counts in the paper's means
    case = build_case(
        data, model, eval_protocol=protocol, metrics=["Recall", "NDCG"], topk=[1, 5], valid_metric="NDCG@5"
    )
    trainer = Trainer(case.config, case.model)
    evaluate_by_full_ranking(trainer)
    fast = trainer.evaluate(case.loaders.test, load_best_model=False)
    monkeypatch.setattr(full_ranking, "has_vectors", lambda kind: False)
    assert fast == pytest.approx(trainer.evaluate(case.loaders.test, load_best_model=False))
    rows, train = dataset_of(case.loaders.test).rows, train_items(case.loaders.train)
    scores = case.model.full_sort_predict(rows.interaction(torch.arange(len(rows)))).detach().view(len(rows), -1)
    scores[:, 0] = -torch.inf
    if protocol == "paper":
        row, item = train.pairs(rows.users)
        scores[row, item] = -torch.inf
    target = scores.gather(1, rows.items[rows.targets].unsqueeze(1))
    above = (scores > target).sum(1)
    n_users = 31 if protocol == "paper" else 30
    assert len(rows) == 30 and case.splits.n_users == 31
    assert fast is not None and fast["recall@5"] == pytest.approx(float((above < 5).sum()) / n_users)
    assert fast["ndcg@5"] == pytest.approx(float((1 / (above + 2).log2())[above < 5].sum()) / n_users)


@pytest.mark.parametrize("protocol", ["recbole", "paper"])
def test_at_test_a_history_holds_the_validation_item_except_in_the_paper(tiny_dataset: TinyData, protocol: str) -> None:
    loaders = build_case(tiny_dataset, "SASRec", eval_protocol=protocol, MAX_ITEM_LIST_LENGTH=50).loaders
    valid, test = dataset_of(loaders.valid).inter_feat, dataset_of(loaders.test).inter_feat
    columns = ("user_id", "item_id_list", "item_length", "item_id")
    asked = {user: row for user, *row in zip(*(valid[field].tolist() for field in columns), strict=True)}
    assert len(test) > 0
    for user, items, length, _ in zip(*(test[field].tolist() for field in columns), strict=True):
        before, n, item = asked[user]
        assert items[:length] == before[:n] + ([item] if protocol == "recbole" else [])


def test_a_history_longer_than_the_maximum_keeps_the_latest(tiny_dataset: TinyData) -> None:
    case = build_case(tiny_dataset, "SASRec", MAX_ITEM_LIST_LENGTH=3)
    whole = build_case(tiny_dataset, "SASRec", MAX_ITEM_LIST_LENGTH=50)
    short, long = (dataset_of(each.loaders.test).inter_feat for each in (case, whole))
    n = int(long["item_length"][0])
    assert n > 3 and long["item_id_list"][0, n - 3 : n].tolist() == short["item_id_list"][0].tolist()


# -- the command
# ---------------------------------------------------------------------------------------------------------

SHORT = ("--epochs=1", "--teacher.epochs=1", "--kd_k=4")
PAIRS = [
    ("SASRec", "SASRec", "sequential"), ("HSTU", "HSTU", "sequential"), ("MF", "HSTU", "sequential"),
    ("LightGCN", "MF", "sequential"),
    ("SASRec", "MF", "sequential"), ("GRU4Rec", "HSTU", "sequential"), ("MF", "TransRec", "sequential"),
    ("HSTU", "HSTU", "general"), ("HSTU", "MF", "general"), ("MF", "HSTU", "general"),
]  # fmt: skip


SMALLEST: dict[str, dict[str, int]] = {
    "SASRec": {"hidden_size": 8, "inner_size": 8, "n_layers": 1},
    "GRU4Rec": {"embedding_size": 8, "hidden_size": 8},
    "HSTU": {"embedding_size": 8, "attention_size": 8, "linear_size": 8, "n_layers": 1},
    "TransRec": {"embedding_size": 8},
    "MF": {"embedding_size": 8},
    "LightGCN": {"embedding_size": 8},
}


def command(folder: Path, model: str, teacher: str, kd: str, *more: str) -> list[str]:
    dropped = ("--eval_args", "--teacher.embedding_size", "--embedding_size", "--kd_", "--epochs", "--teacher.epochs")
    return [word for word in words(folder, model=model, teacher=teacher, kd=kd) if not word.startswith(dropped)] + [
        *SHORT,
        *more,
    ]


@pytest.mark.parametrize(("model", "teacher", "setting"), PAIRS)
@pytest.mark.parametrize("protocol", ["recbole", "paper"])
def test_the_command_runs_every_pair(model: str, teacher: str, setting: str, protocol: str, tmp_path: Path) -> None:
    more = (
        f"--setting={setting}",
        f"--eval_protocol={protocol}",
        "--MAX_ITEM_LIST_LENGTH=10",
        "--teacher.MAX_ITEM_LIST_LENGTH=12",
    )
    more = tuple(
        word
        for word in more
        if "LENGTH" not in word or (teacher if "teacher" in word else model) not in ("MF", "LightGCN")
    )
    sizes = [
        (f"{start}{key}", size)
        for start, name in (("", model), ("teacher.", teacher))
        for key, size in SMALLEST[name].items()
    ]
    more += tuple(f"--{key}={size}" for key, size in sizes)
    assert main(command(tmp_path, model, teacher, "CE", *more)) == 0
    result = results(tmp_path)[-1]
    assert (result["model"], result["teacher_model"], result["setting"]) == (model, teacher, setting)
    for part in ("teacher", "student", "distilled"):
        assert 0 <= result[part]["test"]["ndcg@10"] <= 1 and result[part]["inference_us_per_user"] > 0
    assert f"setting/{setting}" in result["property_files"]["student"] or setting == "general"


def test_a_cached_teacher_serves_with_and_without_hstu(tmp_path: Path) -> None:
    for student, cached in (("MF", False), ("HSTU", True)):
        assert main(command(tmp_path, student, "LightGCN", "CE", "--setting=general")) == 0
        assert results(tmp_path)[-1]["teacher"]["cached"] is cached
    assert main(command(tmp_path, "SASRec", "HSTU", "CE")) == 0
    assert main(command(tmp_path, "MF", "HSTU", "CE", "--setting=sequential")) == 0
    assert results(tmp_path)[-1]["teacher"]["cached"] is True and results(tmp_path)[-2]["setting"] == "sequential"


@pytest.mark.parametrize(
    ("model", "teacher", "kd", "more", "said"),
    [
        ("MF", "SASRec", "CE", (), "--teacher=SASRec is a sequential model.*set --setting=sequential"),
        ("SASRec", "MF", "CE", ("--setting=general",), "--model=SASRec is a sequential model"),
        (
            "HSTU",
            "MF",
            "FreqD",
            ("--setting=general",),
            "FreqD.*HSTUGeneral, which encodes histories, has no user_embedding",
        ),
        (
            "SASRec",
            "MF",
            "TARec",
            ("--kd_n_negatives=5",),
            "TARec makes its assistant by another embedding_size and SASRec has no such key",
        ),
        ("S3Rec", "MF", "CE", (), "S3Rec cannot be a student"),
        ("MF", "FM", "CE", (), "--teacher=FM learns from columns of users and items"),
        ("FM", "MF", "CE", (), "--model=FM is a context model"),
        ("MF", "MF", "CE", ("--setting=sequental",), "Try --setting=sequential"),
        ("SASRec", "MF", "CE", ("--eval_args.split={RS: [0.5, 0.25, 0.25]}",), "leaves some users more"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    model: str,
    teacher: str,
    kd: str,
    more: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words_ = command(tmp_path, model, teacher, kd, *more)
    words_ = [word for word in words_ if kd != "FreqD" or word != "--kd_k=4"]
    assert main(words_) == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert "Traceback" not in error


def test_models_are_listed_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    general, sequential = capsys.readouterr().out.split("sequential models")
    assert (
        "  HSTU " in general
        and "  HSTU " in sequential
        and "  SASRec " in sequential
        and "HSTUGeneral" not in general + sequential
    )
    assert "  MF " in general and "  MF " not in sequential.split("Methods")[0]


def test_an_online_sequential_teacher_is_rebuilt(tmp_path: Path) -> None:
    outcomes = []
    for store in ("factors", "online"):
        assert main(command(tmp_path, "MF", "SASRec", "CE", "--setting=sequential", f"--teacher_store={store}")) == 0
        outcomes.append(results(tmp_path)[-1]["distilled"]["test"])
    assert outcomes[0] == pytest.approx(outcomes[1], rel=1e-4)


@pytest.mark.parametrize("model", ["SASRec", "HSTU"])
def test_histories_are_made_when_they_are_looked_up(tiny_dataset: TinyData, model: str) -> None:
    """A training part holds a few numbers a row, whatever the maximum length."""
    case = build_case(tiny_dataset, model, MAX_ITEM_LIST_LENGTH=10)
    part = dataset_of(case.loaders.train)
    rows, kept = part.rows, part.inter_feat
    assert all(kept.interaction[name].dim() == 1 for name in kept.interaction)
    every = rows.interaction(torch.arange(len(rows)))
    names = {*every.columns, "kd_query"}
    assert (
        set(kept.columns) == names
        and all(name in kept for name in names)
        and "other" not in kept
        and len(kept) == len(rows)
    )
    for name in every.columns:
        assert torch.equal(kept[name], every[name])
    for index in (torch.tensor([5, 0, 7]), [3, 3], slice(2, 9), 4):
        some = kept[index]
        assert set(some.columns) == names
        for name in every.columns:
            assert torch.equal(some[name], every[name][index])
    kept["item_id_list"] = kept["item_id_list"] + 1
    assert torch.equal(kept[[6]]["item_id_list"], every["item_id_list"][[6]] + 1)
    with pytest.raises(KeyError):
        kept["other"]
