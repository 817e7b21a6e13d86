"""A RecBole project with a model class of its own reads its own checkpoints.

Nothing but ``import recbole_kd`` is added to it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from recbole_kd.integration.model_classes import advice_for
from tests.support.forked import Ending, forked
from tests.support.fresh import python
from tests.support.helpers import TinyData

MODEL = """
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.loss import BPRLoss
from recbole.utils import InputType
from torch import nn

class TwoTower(GeneralRecommender):
    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.people = nn.Embedding(self.n_users, 4)
        self.things = nn.Embedding(self.n_items, 4)

    def calculate_loss(self, interaction):
        user = self.people(interaction[self.USER_ID])
        liked, other = (self.things(interaction[key]) for key in (self.ITEM_ID, self.NEG_ITEM_ID))
        return BPRLoss()((user * liked).sum(dim=1), (user * other).sum(dim=1))

    def predict(self, interaction):
        return (self.people(interaction[self.USER_ID]) * self.things(interaction[self.ITEM_ID])).sum(dim=1)

    def full_sort_predict(self, interaction):
        return (self.people(interaction[self.USER_ID]) @ self.things.weight.T).view(-1)

class Outer:
    class Inner(TwoTower):
        pass
"""

TRAIN = """
from recbole.config import Config

config = Config(model={name}, dataset={data!r}, config_dict={{
    "data_path": {path!r}, "epochs": 2, "topk": [5], "valid_metric": "MRR@5", "show_progress": False,
    "state": "ERROR", "learning_rate": 0.05,
    "load_col": {{"inter": ["user_id", "item_id"]}}, "metric_decimal_place": 8,
}})
{between}
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed

init_seed(config["seed"], config["reproducibility"])
train, valid, test = data_preparation(config, create_dataset(config))
trainer = Trainer(config, {name}(config, train._dataset).to(config["device"]))
trainer.fit(train, valid, verbose=False)
found = trainer.evaluate(test, load_best_model=True)
assert found["recall@5"] >= 0 and config["model"] == {name}.__name__ and config.model_class is {name}
trainer.resume_checkpoint(trainer.saved_model_file)
assert trainer.start_epoch >= 1
open("file", "w").write(trainer.saved_model_file)
print(found)
"""

READ = """
import recbole_kd
{before}
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer

config, model, dataset, train, valid, test = load_data_and_model(open("file").read())
print(type(model).__name__, Trainer(config, model).evaluate(test, load_best_model=False))
"""


def _run(folder: Path, code: str) -> Ending:
    """Run a script of a user in ``folder``, in a process that has imported recbole_kd and none of their modules."""
    _write(folder, code)

    def script(words: list[str]) -> int:
        sys.argv = ["script.py", *words]
        sys.path.insert(0, str(folder))
        runpy.run_path(str(folder / "script.py"), run_name="__main__")
        return 0

    return forked(script, [], folder)


def _write(folder: Path, code: str) -> None:
    (folder / "script.py").write_text(code)
    (folder / "my_model.py").write_text(MODEL)


def _train(data: TinyData, name: str = "TwoTower", between: str = "") -> str:
    return TRAIN.format(name=name, data=data.name, path=data.data_path, between=between)


def test_a_project_reads_what_it_wrote_and_another_process_is_told_how(tiny_dataset: TinyData, tmp_path: Path) -> None:
    trained = _run(tmp_path, f"import recbole_kd\nfrom my_model import TwoTower\n{_train(tiny_dataset)}")
    assert trained.code == 0, trained.err[-2000:]
    refused = _run(tmp_path, READ.format(before=""))
    assert refused.code != 0 and "my_model.TwoTower" in refused.err
    assert "call recbole_kd.register_model(TwoTower)" in refused.err.splitlines()[-1]
    call = "from my_model import TwoTower\nrecbole_kd.register_model(TwoTower)"
    read = _run(tmp_path, READ.format(before=call))
    assert read.code == 0, read.err[-2000:]
    assert read.out.splitlines()[-1] == f"TwoTower {trained.out.splitlines()[-1]}"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["in the script itself", "nested", "the Config is older than the import"])
def test_the_class_may_live_anywhere_and_the_config_may_be_older(
    case: str, tiny_dataset: TinyData, tmp_path: Path
) -> None:
    if case == "nested":
        code = f"import recbole_kd\nfrom my_model import Outer\nInner = Outer.Inner\n{_train(tiny_dataset, 'Inner')}"
    elif case == "in the script itself":
        code = f"import recbole_kd\n{MODEL}\n{_train(tiny_dataset)}"
    else:
        code = f"from my_model import TwoTower\n{_train(tiny_dataset, between='import recbole_kd')}"
    _write(tmp_path, code)
    done = python("script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_advice_names_classes_of_users_only() -> None:
    assert "register_model(TwoTower)" in str(advice_for("my_model.TwoTower")) and "(Net)" in str(
        advice_for("__main__.Net")
    )
    assert "teacher_from_scores" in str(advice_for("recbole_gnn.config.Config"))
    for name in (
        "os.system",
        "posix.system",
        "builtins.eval",
        "numpy.load",
        "torch.hub.load",
        "recbole.x.Y",
        "a call of numpy.dtype",
        "TorchScript code",
    ):
        assert advice_for(name) is None, name
