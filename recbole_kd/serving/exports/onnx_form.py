"""A student as ONNX graphs: the query side, and the scores for a query vector."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_kd.data.time_order import RAW_TIME
from recbole_kd.errors import ConfigError, StudentError
from recbole_kd.ops.threads import n_threads
from recbole_kd.serving.exports.exported import Exported, Form, ScoredExport
from recbole_kd.serving.exports.onnx_graphs import LENGTH, Graph, check_model, graph_of
from recbole_kd.serving.student_scores import Full, ModelScores

if TYPE_CHECKING:
    from recbole_kd.serving.student import Student

QUERY, SCORES, USERS, ITEMS = "query.onnx", "scores.onnx", "users.json", "items.json"
HISTORIES_PER_CALL, PAIRS_PER_CALL = 512, 2**18
LARGEST = 2**31 - 2**20
"""Maximum bytes of weights in one ONNX file, with room for the graph."""


class Onnx(Form):
    """The form query.onnx and scores.onnx, with the external ids.

    The position of an id in users.json or items.json is the id in a graph. query.onnx computes ``vector`` float
    ``[batch, d]`` from ``user``, or from a history: ``items`` int64 ``[batch, length]`` right padded with 0,
    ``lengths`` int64 ``[batch]`` and, for an HSTU with times, ``times`` and ``asked`` in seconds. scores.onnx computes
    ``scores`` ``[batch, n_items]`` from ``vector``. For a NeuMF it computes ``score`` from ``user`` and ``item``.
    """

    name = "onnx"
    packages = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}  # noqa: RUF012 - a constant
    extra = "onnx"

    def check(self, student: Student) -> None:
        check_model(student)
        super().check(student)
        if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
            raise ConfigError(
                f"The form {self.name} needs torch 2.5 or newer, and this is {torch.__version__}: run `pip install "
                "'torch>=2.5'`, or leave the form out"
            )

    def write(self, student: Student, folder: Path) -> None:
        onnx = importlib.import_module("onnx")
        graph = graph_of(student)
        whole = _traced(graph, student)
        if "vector" in graph.outputs:
            cut = importlib.import_module("onnx.utils").Extractor(whole)
            onnx.save(cut.extract_model(list(graph.inputs), ["vector"]), folder / QUERY)
            onnx.save(cut.extract_model(["vector"], ["scores"]), folder / SCORES)
        else:
            onnx.save(whole, folder / SCORES)
        for name, kind in ((USERS, student.users), (ITEMS, student.items)):
            text = json.dumps(kind.tokens, ensure_ascii=False)
            (folder / name).write_text(text, encoding="utf-8", newline="\n")

    def read(self, student: Student, folder: Path) -> Exported:
        for name, kind in ((USERS, student.users), (ITEMS, student.items)):
            if json.loads((folder / name).read_text(encoding="utf-8")) != kind.tokens:
                raise StudentError(f"{name} does not hold the student's ids")
        scores = _session(folder / SCORES)
        if not (folder / QUERY).is_file():
            return _Pairs(scores, len(student.items))
        return _Graphs(student, _session(folder / QUERY), scores)


def _traced(graph: Graph, student: Student) -> Any:
    """Return the ONNX model of a graph."""
    size = sum(tensor.nbytes for tensor in graph.module.state_dict().values())
    if size > LARGEST:
        raise StudentError(
            f"The weights of this {student.config['model']} take {size:,} bytes, an ONNX file holds {LARGEST:,}: "
            "export vectors, to=npz or to=faiss"
        )
    longest = {LENGTH: student.config["settings"].get("MAX_ITEM_LIST_LENGTH")}
    sizes = {name: torch.export.Dim(name, max=longest.get(name)) for names in graph.axes.values() for name in names}
    dynamic = tuple({axis: sizes[name] for axis, name in enumerate(names)} for names in graph.axes.values())
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.module,
                tuple(graph.inputs.values()),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=(dynamic,),  # of *inputs
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        said = " ".join(str(error).split())[:200]
        raise StudentError(f"torch.onnx.export cannot export this {student.config['model']}: {said}") from error
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's messages about its own parts; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _session(path: Path) -> Any:
    """Return an onnxruntime session of a graph on the CPU, with as many threads as torch."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = n_threads()
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Graphs(ScoredExport):
    """The query side and the scores in onnxruntime."""

    def __init__(self, student: Student, query: Any, scores: Any) -> None:
        super().__init__(len(student.items))
        self._student, self._query, self._scores = student, query, scores

    def of_users(self, users: Tensor, as_tested: bool) -> Full:
        inputs = self._inputs(users, as_tested)
        blocks = [
            self._query.run(
                ["vector"], {name: value[start : start + HISTORIES_PER_CALL] for name, value in inputs.items()}
            )
            for start in range(0, len(users), HISTORIES_PER_CALL)
        ]
        vectors = np.concatenate([block[0] for block in blocks])

        def full(rows: Tensor) -> Tensor:
            return torch.from_numpy(self._scores.run(["scores"], {"vector": vectors[rows.numpy()]})[0])

        return full

    def _inputs(self, users: Tensor, as_tested: bool) -> dict[str, np.ndarray]:
        scores = self._student.scores
        rows = scores.rows_of_users(users, as_tested) if isinstance(scores, ModelScores) else None
        if rows is None:
            return {"user": users.numpy()}
        found = rows.interaction(torch.arange(len(users)))
        names = {
            "items": rows.fields.history,
            "lengths": rows.fields.length,
            "times": rows.fields.times,
            "asked": RAW_TIME,
        }
        wanted = [one.name for one in self._query.get_inputs()]
        return {name: found[names[name]].numpy() for name in wanted}


class _Pairs(ScoredExport):
    """The scores of pairs in onnxruntime."""

    def __init__(self, scores: Any, n_items: int) -> None:
        super().__init__(n_items)
        self._scores = scores

    def of_users(self, users: Tensor, as_tested: bool) -> Full:
        every = torch.arange(self._n_items)
        step = max(1, PAIRS_PER_CALL // self._n_items)

        def full(rows: Tensor) -> Tensor:
            blocks = []
            for some in users[rows].split(step):
                pairs = {"user": some.repeat_interleave(self._n_items), "item": every.repeat(len(some))}
                (found,) = self._scores.run(["score"], {name: column.numpy() for name, column in pairs.items()})
                blocks.append(torch.from_numpy(found).view(len(some), -1))
            return torch.cat(blocks)

        return full
