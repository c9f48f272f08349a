"""A trained model as an ONNX graph, in float32 or with its matrices in 8 bits, and what runs it on a CPU.

The graph has the names of the tokenizer's columns as inputs, axes for any number of rows and of tokens, and the logits
as outputs. Needs onnx, onnxscript and onnxruntime (`pip install "hf_distill[export]"`).
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.errors import BrokenCheckpoint, DataError, DistillationError
from hf_distill.hub.comparing import Batches, Difference, answers, compare
from hf_distill.tasks import Task, task_of

OPSET = 20
"""The version of the operators; the first in which GELU is one."""

FILE_NAME, INT8_NAME = "model.onnx", "model_int8.onnx"
"""Names as the Hub's own libraries look for them in the folder `onnx`."""

SEGMENTS = "token_type_ids"
TOLERANCE = 1e-4
MAX_BYTES = 2**31
"""What one file of this format holds."""

LONGEST = 2**16
"""Tokens of a row at most where the model itself has no limit."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TASKS = ("single_label", "multi_label", "regression", "token_classification", "question_answering", "masked_lm")

SENTENCES = (
    "No.",
    "It works.",
    "Where is the station?",
    "The film was far better than I had feared.",
    "Nobody answered the phone, so she wrote a letter.",
    "A terrible plot, and worse acting!",
    "In 1969, two people walked on the moon for the first time.",
    "Prices rose by 3.5 % last year, while wages hardly moved at all.",
    "He said that he would come if the weather stayed fine, but it did not, and we went without him.",
    "The committee, which had met four times since the spring, could not agree on a date for the vote.",
    "Good food.",
    "Why would anyone pay for this twice?",
    "Water boils at a lower temperature on a mountain, because the pressure of the air is less there.",
    "I loved every minute of it.",
    "The old bridge was closed in March; the new one, some two hundred metres down the river, will open in June.",
    "Please do not feed the birds.",
)
"""What a graph is compared on unless other texts are given."""

BATCH = 4


def write_onnx(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    *,
    quantized: bool = False,
    texts: Sequence[str] = SENTENCES,
    least_agreement: float = 0.98,
) -> Path:
    """Writes `model.onnx` (or, `quantized`, `model_int8.onnx`) into `folder`, and gives its path.

    The graph is that of a copy in float32 on the CPU, in evaluation mode; the model stays as it is. `quantized` has
    ONNX Runtime keep every matrix in 8 bits, and bring each input of one into 8 bits as it comes.

    The graph is run on `texts` of different lengths, padded in batches of 4 and one by one, before the file gets its
    name: in float32 its logits may differ from the model's by 1e-4 of 1 + the logit; in 8 bits its answers (the
    largest logit, or all above 0; for a regression their correlation) must agree on the share `least_agreement`. For a
    model that is not trained yet, that is near 0 where its logits lie close together: give 0.

    Errors: `DistillationError` for a package that is missing, a task that has no single forward pass, a model that the
    exporter cannot follow or whose graph would be above 2 GiB, and a graph that answers differently; `DataError` for
    no texts.
    """
    return write_graph(
        model, batches_of(model, tokenizer, texts), folder, quantized=quantized, least_agreement=least_agreement
    )[0]


def write_graph(
    model: PreTrainedModel,
    batches: Batches,
    folder: str | os.PathLike[str],
    *,
    quantized: bool = False,
    least_agreement: float = 0.98,
) -> tuple[Path, Difference]:
    """As `write_onnx`, compared on rows that are tokenised already, with labels or without; also how it compares."""
    require_onnx()
    task, place = task_of(model), Path(folder)
    what = f"{type(model).__name__} ({model.config.model_type})"
    _check(model, task, what)
    original = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    expected = answers(original, batches, task.logit_fields)
    place.mkdir(parents=True, exist_ok=True)
    part = place / f".onnx.{os.getpid()}.part"
    part.mkdir(exist_ok=True)
    try:
        found = _write(original, batches[0], part / FILE_NAME, task, what)
        if quantized:
            found = _quantize(found, part / INT8_NAME)
        given = answers(OnnxModel(found), batches, task.logit_fields)
        difference = compare(given, expected, batches, task.form)
        if quantized:
            _check_answers(difference, what, least_agreement)
        elif not torch.allclose(given, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise DistillationError(
                f"export: the graph of {what} has logits that differ from the model's by up to "
                f"{difference.largest_difference:.2g}, more than {TOLERANCE} of 1 + the logit; nothing was written."
            )
        return found.replace(place / found.name), difference
    finally:
        shutil.rmtree(part, ignore_errors=True)


def longest_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens of a row at most; a tokenizer without a limit says 1e30."""
    limits = [tokenizer.model_max_length, Anatomy.of(model).shape.max_length, LONGEST]
    return int(min(length for length in limits if length is not None))


def batches_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Batches:
    """The texts four at a time, padded, and the longest and the shortest alone. Raises: `DataError` for no text."""
    if not texts:
        raise DataError("export: a graph is compared with its model on texts, and there are none.")
    anatomy, limit = Anatomy.of(model), longest_row(model, tokenizer)
    ordered = sorted(texts, key=len)
    groups = [ordered[first : first + BATCH] for first in range(0, len(ordered), BATCH)]
    found = [
        tokenizer(group, truncation=True, max_length=limit, padding=True, return_tensors="pt")
        for group in [*groups, ordered[:1], ordered[-1:]]
    ]
    return [{name: batch[name] for name in batch if name in anatomy.accepts} for batch in found]


class OnnxModel(nn.Module):
    """A graph that `write_onnx` wrote, to be called as the model was: `model(**inputs).logits`.

    It runs on the CPU, on `threads` threads (as many as torch has unless told otherwise). `inputs` are the names of
    its inputs; others that are given are left out, and `token_type_ids` that are not given are zeros, as with the
    model. It has no parameters and nothing to train.

    Errors: `BrokenCheckpoint` for a file that is missing or no such graph; `DistillationError` for an input that is
    missing, and where onnxruntime is.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        super().__init__()
        require_onnx()
        import onnxruntime

        self.threads = threads or torch.get_num_threads()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _refusals() as error:
            raise BrokenCheckpoint(f"{path} cannot be read as an ONNX graph: {_reason(error)}") from error
        self.inputs = tuple(each.name for each in self.session.get_inputs())
        self.outputs = tuple(each.name for each in self.session.get_outputs())
        self.device = torch.device("cpu")

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        """The outputs as tensors, by their names."""
        if SEGMENTS in self.inputs and SEGMENTS not in inputs and "input_ids" in inputs:
            inputs[SEGMENTS] = torch.zeros_like(inputs["input_ids"])
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise DistillationError(f"OnnxModel: the input {missing[0]!r} is missing; given: {', '.join(inputs)}.")
        found = self.session.run(None, {name: inputs[name].numpy() for name in self.inputs})
        return SimpleNamespace(
            **{name: torch.from_numpy(value) for name, value in zip(self.outputs, found, strict=True)}
        )


def require_onnx() -> None:
    """Raises: `DistillationError` naming what is to be installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise DistillationError(
            f'ONNX needs the package {missing[0]}, which is not installed: pip install "hf_distill[export]"'
        )


class _Forward(nn.Module):
    """A model as a function of tensors in the order of `names`, its outputs those of `fields`."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str], fields: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names, self.fields = model, list(names), list(fields)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.names, inputs, strict=True)))
        return tuple(getattr(outputs, field) for field in self.fields)


def _check(model: PreTrainedModel, task: Task, what: str) -> None:
    if task.name not in TASKS or model.config.is_encoder_decoder:
        raise DistillationError(
            f"export: {what} is a model of the task {task.name}, which no single graph computes; an ONNX graph is "
            f"written of encoders with a head for {', '.join(TASKS)}."
        )
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size >= MAX_BYTES:
        raise DistillationError(
            f"export: {what} has {size:,} bytes of weights in float32; an ONNX file holds less than {MAX_BYTES:,}."
        )


def _write(model: PreTrainedModel, batch: Mapping[str, Tensor], target: Path, task: Task, what: str) -> Path:
    from torch.export import Dim

    inputs = {name: tensor[[0, -1]] for name, tensor in batch.items() if name not in task.label_names}
    axes = {0: Dim("batch"), 1: Dim("length", max=Anatomy.of(model).shape.max_length or LONGEST)}
    try:
        with _quiet():
            torch.onnx.export(
                _Forward(model, list(inputs), task.logit_fields).eval(),
                tuple(inputs.values()),
                target,
                input_names=list(inputs),
                output_names=list(task.logit_fields),
                dynamic_shapes=((axes,) * len(inputs),),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                dynamo=True,
            )
    except torch.onnx.OnnxExporterError as error:
        raise DistillationError(
            f"export: torch's exporter cannot follow {what}: {_reason(error.__cause__ or error)}"
        ) from error
    _forget_origin(target)
    return target


def _forget_origin(path: Path) -> None:
    """Takes out what the exporter notes of every node: the lines of source it came from, by their paths here."""
    import onnx

    graph = onnx.load(path)
    parts = [graph, graph.graph, *graph.functions]
    nodes = [node for part in parts[1:] for node in part.node]
    for each in [*parts, *nodes, *graph.graph.value_info, *graph.graph.initializer, *graph.graph.input]:
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    onnx.save(graph, path)


def _quantize(source: Path, target: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name(f"prepared.{source.name}")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_dynamic(prepared, target, weight_type=QuantType.QInt8)
    return target


def _check_answers(difference: Difference, what: str, least_agreement: float) -> None:
    if difference.agreement < least_agreement:
        raise DistillationError(
            f"export: in 8 bits, the graph of {what} gives the model's answer on {difference.agreement:.4f} of "
            f"{difference.rows} texts, less than {least_agreement}; nothing was written. Take float32."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter tells of its own parts: other packages that it looked for, and names of axes."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)`", category=FutureWarning)
            warnings.filterwarnings("ignore", message="# The axis name: .* will not be used", category=UserWarning)
            yield
    finally:
        logger.setLevel(level)


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises for a file that is no graph of its kind; they have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.NoSuchFile,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
    )


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
