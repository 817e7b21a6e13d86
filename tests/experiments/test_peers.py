"""Published code beside ours: a folder that the test writes itself, with classes of the published names."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_kd.cli.benchmark import parse, run
from recbole_kd.errors import ConfigError
from recbole_kd.experiments.benchmarks.cases import Case, build
from recbole_kd.experiments.benchmarks.made_data import read_teacher, write_dataset, write_teacher
from recbole_kd.experiments.benchmarks.peer_settings import PEERS, SHARED, published_settings, settings_of
from recbole_kd.experiments.benchmarks.peers import cells, headers
from recbole_kd.experiments.benchmarks.published_code import Published, time_beside
from recbole_kd.experiments.benchmarks.timed_steps import seconds_of_epoch

SIZE = "30x40x300"

ROWS = """
from torch.utils.data import Dataset

class implicit_CF_dataset(Dataset):
    def __init__(self, dataset, num_users, num_items, train_pairs, train_mat, train_dict, user_pop, item_pop, num_ns):
        self.num_users, self.num_items, self.num_ns = num_users, num_items, num_ns
        self.train_pairs, self.train_mat, self.train_dict = train_pairs, train_mat, train_dict
        self.user_pop, self.item_pop, self.drawn = user_pop, item_pop, 0

    def negative_sampling(self):
        self.drawn += 1

    def __len__(self):
        return len(self.train_pairs)

    def __getitem__(self, n):
        user, item = self.train_pairs[n]
        return user, item, (item + self.drawn) % self.num_items
"""

BACKBONE = """
import torch

class BPR(torch.nn.Module):
    def __init__(self, dataset, args):
        super().__init__()
        self.dataset, self.embedding_dim = dataset, args.embedding_dim
        self.user_emb = torch.nn.Embedding(dataset.num_users, args.embedding_dim)
        self.item_emb = torch.nn.Embedding(dataset.num_items, args.embedding_dim)
        torch.zeros(3).cuda()

    def forward_multi_items(self, users, items):
        return (self.user_emb(users).unsqueeze(1) * self.item_emb(items)).sum(-1)
"""

METHODS = """
import mlflow
import torch

class Method(torch.nn.Module):
    def __init__(self, args, teacher, student):
        super().__init__()
        self.args, self.teacher, self.student, self.epochs, self.seen = args, teacher, student, [], 0
        self.table = torch.nn.Linear(2, 2).cuda()
        self.prepare()

    def prepare(self):
        pass

    def do_something_in_each_epoch(self, epoch):
        self.epochs.append(epoch)

    def get_params_to_update(self):
        return [{"params": self.student.parameters(), "lr": self.args.lr, "weight_decay": self.args.wd}]

    def forward(self, users, items, negatives):
        self.seen += len(users)
        loss = self.student.forward_multi_items(users, items.unsqueeze(1)).square().sum()
        return loss, loss.detach(), loss.detach()

class RCEKD(Method):
    pass

class DCD(Method):
    def prepare(self):
        raise LookupError("a key of the published code")

class HetComp(Method):
    def prepare(self):
        import os
        place = f"checkpoints/{self.args.dataset}/{self.args.T_backbone}/scratch-{self.teacher.embedding_dim}"
        self.states = {name: torch.load(f"{place}/{name}") for name in sorted(os.listdir(place))}

class UnKD(Method):
    def prepare(self):
        counts = {}
        for item in self.student.dataset.train_pairs[:, 1]:
            counts[item] = counts.get(item, 0) + 1
        self.counts = counts
        self.teacher.forward_multi_items(torch.tensor([0]), torch.tensor([[0]]), self.teacher)
"""


def write_published(where: Path, methods: str = METHODS, prefix: str = "") -> Path:
    """Write a stand-in for the published code, and return its folder."""
    for name, text in (("dataset.py", ROWS), ("modeling/backbone/__init__.py", BACKBONE)):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(prefix + text)
    (where / "modeling/KD").mkdir()
    (where / "modeling/KD/__init__.py").write_text(prefix + "from .ours import *\n")
    (where / "modeling/KD/ours.py").write_text(prefix + methods)
    return where


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("made")
    write_teacher(write_dataset(SIZE, where), 16)
    return str(where)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in's folder, whose import leaves nothing behind, in a current folder of its own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for owner in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(owner, "cuda", owner.cuda)
    monkeypatch.setattr(np, "in1d", getattr(np, "in1d", None) or np.isin, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    before, path = dict(sys.modules), list(sys.path)
    yield write_published(tmp_path / "published")
    assert sys.path == path
    for name in {"mlflow", "dataset", *(name for name in sys.modules if name.split(".")[0] == "modeling")}:
        if name not in before:
            sys.modules.pop(name, None)


def case(made: str, kd: str, **given: Any) -> Case:
    return Case("MF", kd, SIZE, made, 8, settings_of(kd, {"kd_k": 5, "kd_n_samples": 5, "kd_candidates": 10, **given}))


def published(code: Path, own: Case) -> tuple[Any, Any, Any]:
    trainer, loaders = build(own)
    return Published(code, own, trainer, loaders), trainer, loaders


def test_published_code_gets_our_data_teacher_student_and_settings(code: Path, made: str) -> None:
    own = case(made, "RCEKD", kd_code_candidates=20, train_batch_size=64)
    side, trainer, loaders = published(code, own)
    args, rows = side.method.args, side.method.student.dataset
    assert (args.mkd_K, args.mkd_L, args.mkd_mxK, args.mkd_tau, args.mkd_T, args.mkd_beta) == (5, 5, 20, 1.0, 10.0, 3.0)
    assert (args.lmbda, args.lr, args.wd, args.batch_size, args.sample_rank) == (500.0, 0.001, 0.00001, 64, False)
    users, items = read_teacher(own.made).embeddings()
    assert torch.equal(side.method.teacher.user_emb.weight, users[1:])
    assert torch.equal(side.method.teacher.item_emb.weight, items[1:])
    assert torch.equal(side.method.student.user_emb.weight, trainer.model.user_embedding.weight[1:])
    ours = loaders.train._dataset.inter_feat
    pairs = {(int(u) - 1, int(i) - 1) for u, i in zip(ours["user_id"], ours["item_id"], strict=True)}
    assert {tuple(pair) for pair in rows.train_pairs.tolist()} == pairs and (rows.num_users, rows.num_items) == (30, 40)
    assert {(u, int(i)) for u, of in rows.train_dict.items() for i in of} == pairs
    assert {tuple(pair) for pair in rows.train_mat.coalesce().indices().T.tolist()} == pairs
    assert rows.user_pop.sum() == rows.item_pop.sum() == len(pairs) == 300


def test_both_sides_train_the_same_epochs(code: Path, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Published] = []
    plain = Published.__init__
    monkeypatch.setattr(Published, "__init__", lambda self, *rest: (plain(self, *rest), held.append(self))[0])
    row = time_beside(str(code), case(made, "RCEKD", kd_code_candidates=20), 2)
    method = held[0].method
    assert method.epochs == [0, 1, 2] and method.seen == 3 * 300 and held[0].rows.drawn == 3
    assert not torch.equal(method.student.user_emb.weight, torch.zeros(30, 8)) and "error" not in row
    for side in ("our", "published"):
        assert row[f"{side}_seconds_per_epoch"] > 0 and row[f"{side}_cpu_seconds_per_epoch"] > 0
        assert row[f"{side}_preparation_seconds"] > 0
    line = cells({**row, "kd": "RCEKD", "size": SIZE})
    assert line[4] == pytest.approx(row["published_seconds_per_epoch"] / row["our_seconds_per_epoch"])
    assert not list(code.rglob("__pycache__")), "nothing is written into the folder"


def test_an_epoch_can_be_scaled_from_some_steps(code: Path, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds_of_epoch([(9.0, 8.0), (1.0, 0.5), (3.0, 1.5)], 5) == (17.0, 12.0)
    held: list[tuple[Published, Any]] = []
    plain = Published.__init__
    monkeypatch.setattr(
        Published, "__init__", lambda self, *rest: (plain(self, *rest), held.append((self, rest[2])))[0]
    )
    own = case(made, "RCEKD", kd_code_candidates=20, train_batch_size=64)  # five batches, the last of 44 rows
    row = time_beside(str(code), own, 0, steps=6)
    side, trainer = held[0]
    assert side.method.epochs == [0, 1] and side.method.seen == 64 + 300 + 2 * 64 and side.rows.drawn == 2
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {8}, "ours takes as many steps"
    for name in ("our", "published"):
        assert row[f"{name}_seconds_per_epoch"] > 0 and row[f"{name}_cpu_seconds_per_epoch"] > 0
    assert headers(6)[2] == "published, s (scaled from 6 steps)" and headers(6)[4] == "ratio"
    with pytest.raises(ConfigError, match="--repeats=2 has no effect with --peers_steps"):
        parse([f"--peers={code}", "--kd=RCEKD", "--peers_steps=6", "--repeats=2"])


def test_what_published_code_raises_is_said_and_ours_is_timed(code: Path, made: str) -> None:
    row = time_beside(str(code), case(made, "DCD"), 0)
    assert row["error"] == "LookupError: a key of the published code" and row["our_seconds_per_epoch"] > 0
    assert cells({**row, "kd": "DCD", "size": SIZE})[4] is None


def test_methods_that_need_more_get_it(code: Path, made: str) -> None:
    side, *_ = published(code, case(made, "HetComp"))
    assert list(side.method.states) == ["BEST_EPOCH.pt", "EPOCH_1.pt", "EPOCH_2.pt"]
    tables = [state["user_emb.weight"] for state in side.method.states.values()]
    assert torch.allclose(tables[1], 0.3 * tables[0]) and torch.allclose(tables[2], 0.6 * tables[0])
    side, *_ = published(code, case(made, "UnKD"))
    assert sum(side.method.counts.values()) == 300 and len(side.method.counts) <= 40


@pytest.mark.parametrize("kd", list(PEERS))
def test_every_setting_of_a_method_is_translated(kd: str) -> None:
    ours = settings_of(kd, {"kd_k": 7, "train_batch_size": 99, "kd_unknown": 1})
    args = Namespace(**published_settings(kd, ours))
    assert args.batch_size == 99 and "kd_unknown" not in ours
    assert all(getattr(args, theirs) == ours[key] for theirs, key in {**SHARED, **PEERS[kd].keys}.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kd=RRD"], r"lacks RRD: no class RRD in modeling/KD/\*\.py"),
        ([], "lacks RRD"),
        (["--kd=CE"], r"--kd=CE is not possible with --peers: expected RCEKD, RRD"),
        (["--kd=RCEKD", "--kd_p=3"], "--kd_p is not possible with --peers: expected kd_beta, kd_code_candidates"),
        (["--kd=RCEKD", "--model=LightGCN"], "--model=LightGCN is not possible with --peers: expected MF"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(tmp_path: Path, words: list[str], said: str) -> None:
    folder = write_published(tmp_path / "published", prefix=f"open({str(tmp_path / 'run')!r}, 'w').close()\n")
    with pytest.raises(ConfigError, match=said):
        parse([f"--peers={folder}", *words])
    known, _ = parse([f"--peers={folder}", "--kd=RCEKD,UnKD"])
    assert known.methods == ["RCEKD", "UnKD"] and not (tmp_path / "run").exists()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not look like the published code: no class implicit_CF_dataset in"):
        parse([f"--peers={tmp_path}"])
    (write_published(tmp_path / "published") / "modeling/backbone/__init__.py").write_text("class BPR(:\n")
    with pytest.raises(ConfigError, match="no class BPR in modeling/backbone/"):
        parse([f"--peers={tmp_path / 'published'}"])


def test_a_folder_with_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.py").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read \(dataset\.py: Is a directory\)"):
        parse([f"--peers={tmp_path}", "--kd=RCEKD"])


@pytest.mark.slow
def test_the_command_prints_the_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = write_published(tmp_path / "published"), tmp_path / "peers.json"
    words = [f"--peers={folder}", "--kd=RCEKD,DCD", f"--size={SIZE}", "--repeats=1", "--teacher_width=16"]
    keys = ["--kd_k=5", "--kd_n_samples=5", "--kd_code_candidates=20", "--kd_candidates=10", f"--output={output}"]
    assert run([*words, *keys]) == 0
    said = capsys.readouterr().out
    assert "DCD: not compared, LookupError: a key of the published code" in said and "CPU ratio" in said
    rows = json.loads(output.read_text())
    assert [row["kd"] for row in rows] == ["RCEKD", "DCD"] and rows[0]["published_seconds_per_epoch"] > 0
    assert run([*words, "--minutes=0.001"]) == 0
    assert "took more than 0.001 minutes" in capsys.readouterr().out
