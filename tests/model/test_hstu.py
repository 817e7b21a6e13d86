"""HSTU in RecBole: both faces run, train by user, know whole seconds, and read their checkpoints back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import get_model, get_trainer, init_seed

from recbole_kd.config.property_layers import properties_dir, read_yaml
from recbole_kd.data.histories import ordered_dataset
from recbole_kd.data.histories.ordered_dataset import RAW_ROW, RAW_TIME
from recbole_kd.data.histories.user_histories import Histories, padded_histories
from recbole_kd.errors import ConfigError
from recbole_kd.integration import register as registration
from recbole_kd.integration.safe_load import load_checkpoint
from recbole_kd.model import hstu
from recbole_kd.model.hstu import HSTU, HSTUGeneral
from recbole_kd.model.hstu_packing import PackedLayout, time_buckets
from tests.support.fresh import python
from tests.support.helpers import TinyData, dataset_of

FACES = {"HSTU": HSTU, "HSTUGeneral": HSTUGeneral}
SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "embedding_size": 8,
    "n_layers": 1,
    "n_heads": 2,
    "attention_size": 4,
    "linear_size": 4,
    "n_negatives": 16,
    "MAX_ITEM_LIST_LENGTH": 12,
    "user_inter_num_interval": "[300,inf)",
    "train_batch_size": 16,
    "eval_batch_size": 1_000_000,
    "topk": 100,
    "valid_metric": "MRR@100",
    "metric_decimal_place": 10,
    "gpu_id": "",
    "state": "ERROR",
    "show_progress": False,
}
TINY: dict[str, Any] = {
    **SETTINGS,
    "user_inter_num_interval": None,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.chdir(tmp_path)


def prepared(model: str, data: TinyData | None = None, **given: Any) -> tuple[Any, Any, Any, tuple[Any, Any, Any]]:
    """Config, model, data set and loaders."""
    base = SETTINGS if data is None else {**TINY, "data_path": data.data_path}
    config = Config(model=model, dataset="ml-100k" if data is None else data.name, config_dict={**base, **given})
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    return config, get_model(model)(config, dataset_of(loaders[0])), dataset, loaders


def few_ranks(data: TinyData) -> dict[str, Any]:
    """Settings of a run on the tiny data, which has 40 items."""
    return {**TINY, "data_path": data.data_path, "topk": 10, "valid_metric": "MRR@10"}


def by_user(users: Any, items: Any) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for user, item in zip(np.asarray(users).tolist(), np.asarray(items).tolist(), strict=True):
        out.setdefault(user, []).append(item)
    return out


# -- RecBole's own functions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", FACES)
def test_run_recbole_trains_and_its_checkpoint_is_read_back(model: str, tmp_path: Path, tiny_dataset: TinyData) -> None:
    result = run_recbole(model=model, dataset=tiny_dataset.name, config_dict=few_ranks(tiny_dataset))
    assert result["test_result"]["hit@10"] > 0
    (file,) = (tmp_path / "saved").glob(f"{model}-*.pth")
    state = load_checkpoint(file)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"encoder"}  # the histories belong to the data
    config, read, _, _, _, test = load_data_and_model(file)
    assert type(read) is FACES[model] is config.model_class
    assert (
        get_trainer(config["MODEL_TYPE"], model)(config, read).evaluate(test, load_best_model=False)
        == result["test_result"]
    )


OWN_PROCESS = """
import json, sys
import recbole_kd
from recbole.quick_start import run_recbole

settings = json.loads(sys.argv.pop())
result = run_recbole(model="HSTU", dataset="tiny", config_dict=settings, saved=False)["test_result"]
print(json.dumps({name: float(value) for name, value in result.items()}))
"""


def test_another_process_gets_the_same_result(tmp_path: Path, tiny_dataset: TinyData) -> None:
    settings = few_ranks(tiny_dataset)
    done = python("-c", OWN_PROCESS, json.dumps(settings), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout.splitlines()[-1])
    here = run_recbole(model="HSTU", dataset="tiny", config_dict=settings, saved=False)["test_result"]
    assert there == {name: float(value) for name, value in here.items()}


@pytest.mark.parametrize("model", FACES)
def test_both_faces_read_one_property_file(model: str) -> None:
    ours = read_yaml(properties_dir() / "model" / "HSTU.yaml")
    config = Config(model=model, dataset="ml-100k")
    assert {key: config[key] for key in ours if key != "train_neg_sample_args"} == {
        k: v for k, v in ours.items() if k != "train_neg_sample_args"
    }
    assert config["train_neg_sample_args"]["distribution"] == "none"


def test_a_taken_data_set_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import recbole.data.dataset as theirs

    assert theirs.HSTUDataset is ordered_dataset.HSTUDataset
    assert not hasattr(theirs, "MFDataset")
    registration.register()
    monkeypatch.setattr(theirs, "HSTUDataset", type("HSTUDataset", (SequentialDataset,), {}), raising=False)
    with pytest.raises(ConfigError, match="'HSTUDataset' is taken by"):
        registration.register()


@pytest.mark.parametrize("file", sorted((properties_dir() / "model").glob("HSTU-*.yaml")), ids=lambda file: file.stem)
def test_published_sizes(file: Path) -> None:
    """methods: Table 6 and the shipped configurations."""
    base, student = read_yaml(properties_dir() / "model" / "HSTU.yaml"), read_yaml(file)
    teacher = {**student, **read_yaml(properties_dir() / "teacher" / file.name)}
    assert set(student) <= {*base, "learning_rate", "weight_decay"} and set(teacher) == set(student)
    blocks = {"citeulike": ((1, 2), (8, 4)), "gowalla": ((1, 1), (8, 4)), "yelp2018": ((1, 2), (8, 8))}[
        file.stem.split("-")[1]
    ]
    assert tuple((p["n_layers"], p["n_heads"]) for p in (student, teacher)) == blocks
    hstu.check({**base, **student})


# -- the data ---------------------------------------------------------------------------------------------------------


def test_training_is_by_user_and_evaluation_rows_are_recboles(tiny_dataset: TinyData) -> None:
    split = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}}
    _, _, _, ours = prepared("HSTU", tiny_dataset, **split)
    config = Config(
        model="SASRec",
        dataset="tiny",
        config_dict={**TINY, "data_path": tiny_dataset.data_path, "train_neg_sample_args": None, **split},
    )
    theirs = data_preparation(config, create_dataset(config))
    for mine, other in zip(ours, theirs, strict=True):
        fields = list(dataset_of(other).inter_feat.interaction)
        assert all(
            torch.equal(dataset_of(mine).inter_feat[field], dataset_of(other).inter_feat[field]) for field in fields
        )

    batches = list(ours[0])
    users = torch.cat([batch["user_id"] for batch in batches])
    assert len(users) == len(users.unique()) == 30 and len(ours[0]) == 2
    whole = by_user(dataset_of(theirs[0]).inter_feat["user_id"], dataset_of(theirs[0]).inter_feat["item_id"])
    for batch in batches:
        for user, items, length, target in zip(
            *(batch[f].tolist() for f in ("user_id", "item_id_list", "item_length", "item_id")), strict=True
        ):
            n_targets = min(12, len(whole[user]))
            assert [*items[:length], target][-n_targets:] == whole[user][-n_targets:] and length == n_targets


def test_every_position_is_a_target(tiny_dataset: TinyData) -> None:
    """What follows a position, and each position's vector is that of the prefix which ends there."""
    _, model, _, (train, *_) = prepared("HSTU", tiny_dataset)
    model.eval()
    batch = next(iter(train))
    encoded, following = model.encode(batch)
    positions = encoded.padded()
    at = torch.zeros(positions.shape[:2], dtype=torch.int64).index_put(
        (encoded.layout.row, encoded.layout.place), following
    )
    for row in range(len(batch)):
        length = int(batch["item_length"][row])
        items, times = batch["item_id_list"][row : row + 1, :length], batch["raw_time_list"][row : row + 1, :length]
        assert at[row, :length].tolist() == [*items[0, 1:].tolist(), int(batch["item_id"][row])]
        asked = [*times[0, 1:].tolist(), int(batch["raw_time"][row])]
        for end in (1, length // 2 + 1, length):
            prefix = model(items[:, :end], torch.tensor([end]), times[:, :end], torch.tensor(asked[end - 1 : end]))
            torch.testing.assert_close(positions[row, end - 1], prefix[0], rtol=1e-5, atol=1e-6)


def test_whole_seconds_of_ml_100k_reach_the_model() -> None:
    _, model, dataset, (train, *_) = prepared("HSTU", time_bias=True)
    assert model.has_times
    batch = next(iter(train))
    seconds, length = batch["raw_time_list"], batch["item_length"]
    assert seconds.dtype == torch.int64 and 874_000_000 < int(seconds[0, 0]) < 894_000_000
    lines = (Path(dataset.dataset_path) / "ml-100k.inter").read_text().splitlines()[1:]
    raw = {(u, i): int(float(t)) for u, i, _, t in (line.split("\t") for line in lines)}
    for row in range(3):
        user = dataset.id2token("user_id", int(batch["user_id"][row]))
        items = dataset.id2token("item_id", batch["item_id_list"][row, : length[row]].numpy())
        assert [raw[user, item] for item in items] == seconds[row, : length[row]].tolist()
        assert batch["timestamp_list"][row].max() <= 1  # what RecBole makes of them

    def used(times: torch.Tensor) -> int:
        layout = PackedLayout.of(length, 12, 1)
        packed = times[layout.row, layout.column]
        buckets = time_buckets(layout, packed, packed)
        return len(
            torch.cat(
                [
                    b[(~g.padding).unsqueeze(1) & (~g.padding).unsqueeze(2)]
                    for b, g in zip(buckets, layout.groups, strict=True)
                ]
            ).unique()
        )

    assert used(seconds) > 10
    assert used(batch["timestamp_list"]) == 1


def test_the_time_bias_learns_from_the_seconds() -> None:
    _, model, _, (train, *_) = prepared("HSTU")
    model.calculate_loss(next(iter(train))).backward()
    grad = model.encoder.blocks[0].time_weight.grad
    assert int((grad != 0).sum()) > 10


@pytest.fixture(scope="module")
def timeless(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Users' items in the order of the lines, users mixed, no time column."""
    folder = tmp_path_factory.mktemp("timeless")
    lines = [f"u{user}\ti{(7 * user + 3 * step) % 20}" for step in range(8) for user in range(6)]
    (folder / "plain").mkdir()
    (folder / "plain" / "plain.inter").write_text("\n".join(["user_id:token\titem_id:token", *lines]) + "\n")
    return TinyData(str(folder), "plain")


def test_without_times_the_files_order_counts(timeless: TinyData) -> None:
    given = {"load_col": {"inter": ["user_id", "item_id"]}}
    _, model, dataset, (train, *_) = prepared("HSTU", timeless, **given)
    assert not model.has_times
    batch = next(iter(train))
    for row in range(6):
        user = int(dataset.id2token("user_id", int(batch["user_id"][row]))[1:])
        items = [*batch["item_id_list"][row, : batch["item_length"][row]].tolist(), int(batch["item_id"][row])]
        assert dataset.id2token("item_id", items).tolist() == [
            f"i{(7 * user + 3 * step) % 20}" for step in range(len(items))
        ]
    model.calculate_loss(batch).backward()
    distinct = model.encoder.blocks[0].time_weight.grad.nonzero().flatten().tolist()
    assert distinct == [0, 2, 3, 4, 5]  # positions apart 1 to 5: ln 1 / .301 = 0, ln 2 / .301 = 2.3, ...


@pytest.mark.parametrize("order", ["TO", "RO"])
@pytest.mark.parametrize("timed", [True, False])
def test_a_general_split_keeps_the_order_of_the_training_items(
    order: str, timed: bool, tiny_dataset: TinyData, timeless: TinyData
) -> None:
    if order == "TO" and not timed:
        return  # RecBole itself needs the times
    data, columns = (tiny_dataset, ["user_id", "item_id", "timestamp"]) if timed else (timeless, ["user_id", "item_id"])
    split = {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": order, "mode": "full"}}
    _, model, dataset, (train, valid, test) = prepared(
        "HSTUGeneral", data, load_col={"inter": columns}, MAX_ITEM_LIST_LENGTH=7, **split
    )
    lines = (Path(data.data_path) / data.name / f"{data.name}.inter").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    rows = sorted(rows, key=lambda row: float(row[2])) if timed else rows
    in_order = by_user(
        dataset.token2id("user_id", [r[0] for r in rows]), dataset.token2id("item_id", [r[1] for r in rows])
    )
    kept = by_user(dataset_of(train).inter_feat["user_id"], dataset_of(train).inter_feat["item_id"])
    assert len(dataset_of(train)) == len(kept) < len(dataset_of(train).inter_feat)
    held_out = by_user(
        *(torch.cat([dataset_of(part).inter_feat[f] for part in (valid, test)]) for f in ("user_id", "item_id"))
    )
    for user, items in in_order.items():
        want = [item for item in items if item in kept[user]][-7:]
        mine = model.items[model.starts[user] : model.starts[user + 1]].tolist()
        assert mine == want and not set(mine) & set(held_out.get(user, []))


def test_the_general_face_needs_its_data_set(tiny_dataset: TinyData) -> None:
    config, *_ = prepared("HSTUGeneral", tiny_dataset)
    plain = Dataset(config)
    with pytest.raises(ConfigError, match="HSTUGeneral needs the order"):
        HSTUGeneral(config, plain.build()[0])


def test_general_training_has_one_row_a_user_and_masks_see_all(tiny_dataset: TinyData) -> None:
    _, _, _, (train, valid, _) = prepared("HSTUGeneral", tiny_dataset)
    users = torch.cat([batch["user_id"] for batch in train])
    assert sorted(users.tolist()) == list(range(1, 31))
    assert len(dataset_of(train).by_row()) == len(dataset_of(train).inter_feat) > len(dataset_of(train)) == 30
    assert {RAW_TIME, RAW_ROW} < set(dataset_of(train).inter_feat.interaction)
    rows = by_user(dataset_of(train).inter_feat["user_id"], dataset_of(train).inter_feat["item_id"])
    assert all(set(valid._sampler.used_ids[user]) >= set(items) for user, items in rows.items())


def test_histories() -> None:
    users, items = np.array([2, 1, 2, 2, 1, 4]), np.array([5, 6, 7, 8, 9, 3])
    times, rows = np.array([30, 10, 20, 20, 5, 1]), np.array([0, 1, 3, 2, 4, 5])
    made = Histories.of(users, items, times, rows, n_users=6, max_length=2)
    assert made.starts.tolist() == [0, 0, 2, 4, 4, 5, 5]
    assert made.items.tolist() == [9, 6, 7, 5, 3] and made.times.tolist() == [5, 10, 20, 30, 1]
    got = padded_histories(made.starts, made.items, made.times, torch.tensor([4, 0, 1]))
    assert [x.tolist() for x in got] == [[[3, 0], [0, 0], [9, 6]], [1, 0, 2], [[1, 0], [0, 0], [5, 10]]]
    nobody = Histories.of(*(np.empty(0, dtype=np.int64) for _ in range(4)), n_users=3, max_length=2)
    assert [x.tolist() for x in padded_histories(nobody.starts, nobody.items, nobody.times, torch.tensor([1]))] == [
        [[0]],
        [0],
        [[0]],
    ]


# -- the models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", FACES)
def test_scores_are_cosines_and_agree(model: str, tiny_dataset: TinyData) -> None:
    _, net, _, (train, valid, _) = prepared(model, tiny_dataset)
    net.eval()
    first = next(iter(valid))
    rows = first[0]
    full = net.full_sort_predict(rows)
    assert full.shape == (len(rows), net.n_items) and full.abs().max() <= 1 + 1e-6 and not full[:, 0].any()
    asked = torch.arange(len(rows)) % (net.n_items - 1) + 1
    single = Interaction({**rows.interaction, net.ITEM_ID: asked})
    torch.testing.assert_close(net.predict(single), full.gather(1, asked.unsqueeze(1)).squeeze(1))
    batch = next(iter(train))
    torch.testing.assert_close(net.encode(batch)[0].last(), net.queries(batch))


def test_tables_of_the_general_face(tiny_dataset: TinyData, monkeypatch: pytest.MonkeyPatch) -> None:
    _, net, _, _ = prepared("HSTUGeneral", tiny_dataset)
    net.eval()
    monkeypatch.setattr(hstu, "USERS_PER_BLOCK", 7)
    users, items = net()
    assert users.shape == (31, 8) and not users[0].any()
    scores = net.full_sort_predict(Interaction({"user_id": torch.arange(31)}))
    torch.testing.assert_close(users @ items.T, scores)


def test_every_item_but_the_first_is_a_target_of_the_general_face(tiny_dataset: TinyData) -> None:
    _, net, _, _ = prepared("HSTUGeneral", tiny_dataset)
    encoded, following = net.encode_users(torch.tensor([3, 1]))
    for row, user in enumerate((3, 1)):
        history = net.items[net.starts[user] : net.starts[user + 1]].tolist()
        assert following[encoded.layout.row == row].tolist() == [*history[1:], 0]


SAMPLED = {"loss": "sampled_softmax"}


@pytest.mark.parametrize(
    "loss", [{**SAMPLED, "negatives": "own"}, {**SAMPLED, "negatives": "shared"}, {"loss": "full_softmax"}]
)
@pytest.mark.parametrize("model", FACES)
def test_it_learns(model: str, loss: dict[str, str], tiny_dataset: TinyData) -> None:
    _, net, _, (train, *_) = prepared(model, tiny_dataset, **loss, temperature=0.2, n_negatives=30)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    torch.manual_seed(0)
    losses = []
    for _ in range(30):
        for batch in train:
            optimizer.zero_grad()
            loss = net.calculate_loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.3
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize(
    ("name", "n_items", "wanted"),
    [
        ("auto", 20_001, "full_softmax"),
        ("auto", 20_002, "sampled_softmax"),
        ("full_softmax", 10**7, "full_softmax"),
        ("sampled_softmax", 3, "sampled_softmax"),
        (None, 3, "sampled_softmax"),  # a checkpoint of an earlier version
    ],
)
def test_the_loss_follows_the_size_of_the_catalogue(name: str | None, n_items: int, wanted: str) -> None:
    assert hstu.loss_for(hstu.loss_name({"loss": name}), n_items) == wanted


def test_published_settings_name_the_published_loss() -> None:
    files = sorted((properties_dir() / "model").glob("HSTU-*.yaml"))
    assert [read_yaml(file)["loss"] for file in files] == ["sampled_softmax"] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_layers", 0),
        ("n_negatives", True),
        ("embedding_size", 2.5),
        ("input_dropout", 1.0),
        ("linear_dropout", "x"),
        ("temperature", 0),
        ("loss", "softmax"),
        ("negatives", "few"),
        ("table_init", "zeros"),
        ("time_bias", None),
    ],
)
def test_bad_values_are_named(key: str, value: Any) -> None:
    good = {**read_yaml(properties_dir() / "model" / "HSTU.yaml")}
    hstu.check(good)
    with pytest.raises(ConfigError, match=f"^Invalid --{key}={'~' if value is None else value}: expected"):
        hstu.check({**good, key: value})


@pytest.mark.parametrize("init", ["xavier_normal", "truncated_normal"])
def test_tables_start_as_published(init: str) -> None:
    _, net, _, _ = prepared("HSTU", table_init=init, embedding_size=64)
    table = net.encoder.item_embedding.weight.detach()
    want = (
        (2 / (len(table) + 64)) ** 0.5 if init == "xavier_normal" else 0.02 * 0.8796
    )  # a normal cut at two standard deviations
    assert table[1:].std().item() == pytest.approx(want, rel=0.03) and not table[0].any()
