"""`distillation.json`: the facts of one run, from which it can be understood and made again."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import platform
import re
import stat
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationError,
)

from hf_distill import writing
from hf_distill.errors import HubError
from hf_distill.hub.redaction import redacted, redacted_command, redacted_name, redacted_recipe, redacted_text
from hf_distill.model_sizes import num_bytes, num_parameters
from hf_distill.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FILE_NAME = "distillation.json"
SCHEMA: Literal[1] = 1
"""The version of the format that is written; what is newer is refused."""

MAX_BYTES = 4 * 1024 * 1024
WEIGHT_FILES = (
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
)
_HUB_ID = re.compile(r"(?=.{1,96}\Z)(?!.*(?:--|\.\.|\.git\Z))(?:\w[\w.-]*/)?\w(?:[\w.-]*\w)?", re.ASCII)
LICENSE = r"[a-z0-9][a-z0-9.+-]{0,63}"
"""The form of the identifier of a licence, as the Hub spells it."""

ADDRESS = r"https?://[A-Za-z0-9./_~%+#?=&:@-]{1,200}"
"""The form of an address that a card may lead to."""

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "huggingface_hub")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a repository on the Hub (`name` or `owner/name`)."""
    return _HUB_ID.fullmatch(name) is not None


def _hub_id(name: str) -> str:
    if not is_hub_id(name):
        raise ValueError(f"{name!r} is not the name of a repository on the Hub")
    return name


Text = Annotated[str, AfterValidator(redacted_text)]
Name = Annotated[str, AfterValidator(redacted_name)]
"""A key, a split or a file, which are found again by it; the host's name is left in it."""

HubId = Annotated[str, AfterValidator(_hub_id)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Facts = Annotated[dict[str, JsonValue], BeforeValidator(redacted)]
PlainRecipe = Annotated[dict[str, JsonValue], BeforeValidator(redacted_recipe)]
Command = Annotated[list[str], AfterValidator(redacted_command)]
LicenseName = Annotated[str, Field(pattern=rf"^{LICENSE}$")]
Address = Annotated[str, Field(pattern=rf"^{ADDRESS}$")]
Metrics = dict[str, FiniteFloat]
Interval = tuple[FiniteFloat, FiniteFloat]
Side = Literal["student", "teacher", "control"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class ModelFacts(_Strict):
    """Which model it was. A model from the Hub has `id` and `revision`, one from a folder the sums of its `files`; the
    student of a record those of what lies beside the record. `adapter_of` is the model of the Hub that a student is an
    adapter of, `license` what the model's card says, with a name and a link where that is `other`."""

    id: HubId | None = None
    revision: Text | None = None
    files: dict[Name, Sha256] = {}
    class_name: Text
    model_type: Text
    num_parameters: Count
    num_bytes: Count
    num_hidden_layers: Count | None = None
    adapter_of: HubId | None = None
    license: Text | None = None
    license_name: LicenseName | None = None
    license_link: Address | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, name_or_path: str | Path | None = None) -> ModelFacts:
        """Facts of `model`, which was loaded from `name_or_path` (None: made here)."""
        folder = None if name_or_path is None else Path(name_or_path)
        is_local = folder is not None and folder.is_dir()
        hub_id = None if name_or_path is None or is_local or not is_hub_id(str(name_or_path)) else str(name_or_path)
        return cls(
            id=hub_id,
            revision=getattr(model.config, "_commit_hash", None) if hub_id else None,
            files=sha256_of_files(folder, WEIGHT_FILES) if folder is not None and is_local else {},
            class_name=type(model).__name__,
            model_type=str(model.config.model_type),
            num_parameters=num_parameters(model),
            num_bytes=num_bytes(model),
            num_hidden_layers=getattr(model.config, "num_hidden_layers", None),
        )


class CacheFacts(_Strict):
    """A teacher that was read from the disk: the fingerprint of its cache, and the codec of each signal."""

    fingerprint: Text
    codecs: dict[Text, Text]


class CutFacts(_Strict):
    """What a student kept of its teacher by measured importance: `layers` of each stack, counted from 1, by `pick`,
    and the `scores` that chose them (of each layer, or of each run of layers that could go, by its first one); the
    `hidden` dimensions, counted from 0, where it is narrower; and how many training `rows` were read at most."""

    layers: dict[Text, list[Count]]
    pick: Text
    scores: dict[Text, list[FiniteFloat]] = {}
    hidden: list[Count] = []
    rows: Count


class ObjectiveFacts(_Strict):
    """One term of the loss: its `name` in the logs, the registered `objective`, its weight and settings.

    `weight` is a number, or the text of a schedule or of a learned weight; `on` is the one of several teachers that it
    learned from, empty for all of them; `citation` is BibTeX or empty.
    """

    name: Text
    objective: Text
    weight: FiniteFloat | Text
    settings: Facts = {}
    on: Text = ""
    citation: str = ""


class Origin(_Strict):
    """What a recipe named: a repository of the Hub at a commit, or a local file or folder by the sums of its files; of
    a model that a student starts from also the licence, as in `ModelFacts`."""

    id: HubId | None = None
    revision: Text | None = None
    files: dict[Name, Sha256] = {}
    license: LicenseName | None = None
    license_name: LicenseName | None = None
    license_link: Address | None = None


def is_start(key: str) -> bool:
    """Whether a key of a recipe names a model that a student starts from."""
    return re.fullmatch(r"(?:stages\.\d+\.)?student\.model", key) is not None


class SourceFacts(_Strict):
    """One data file by its name and the sum of its bytes."""

    name: Text
    sha256: Sha256 | None = None


class DataFacts(_Strict):
    """The data. `id`, `config` and `revision`, the commit that was read, name a data set of the Hub; `sources` and
    `sizes` go by split, `commits` of text from the Hub by the keys of the recipe (`data.text.train.0.hub.revision`).
    """

    name: Text
    id: HubId | None = None
    config: Text | None = None
    revision: Text | None = None
    sources: dict[Name, SourceFacts] = {}
    sizes: dict[Name, Count] = {}
    alignment: dict[Name, dict[Text, Count]] = {}
    commits: dict[Name, Text] = {}
    fingerprint: Text | None = None


class Hardware(_Strict):
    """What the run was on: `machine` is the architecture (`x86_64`), never a host name. `threads` are those of a
    process on the CPU, on which the last digits of sums depend, and `processes` how many trained together."""

    machine: Text
    processor: Text
    cores: Count
    accelerators: list[Text] = []
    threads: Count | None = None
    processes: Count | None = None


class Speed(_Strict):
    """How long a model takes for a sentence at batch 1, the median and the quartiles in milliseconds, and how many
    sentences a second it reads at batch 32, on so many threads of the record's machine or on another `device`."""

    milliseconds_per_sentence: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    sentences_per_second: FiniteFloat
    threads: Count
    device: Text
    sentences: Count


class Export(_Strict):
    """Another form of the student, a file below it, and how it answers on `rows` rows beside the student itself: the
    share of equal answers (of a regression the correlation), the largest difference of a logit, the accuracy of both
    where the rows have classes, and the speed of both, one after the other."""

    scheme: Text
    sha256: Sha256
    bytes: Count
    rows: Count
    texts: Text
    agreement: FiniteFloat
    largest_difference: FiniteFloat
    accuracy: FiniteFloat | None = None
    original_accuracy: FiniteFloat | None = None
    speed: Speed | None = None
    original_speed: Speed | None = None


class Emissions(_Strict):
    """What codecarbon estimated of the training: kilograms of CO2 equivalent, kilowatt-hours, seconds, the country."""

    kilograms: FiniteFloat
    kilowatt_hours: FiniteFloat
    seconds: FiniteFloat
    country: Text = ""


class Record(_Strict):
    """Everything the card tells and a repetition needs, without anything private.

    Paths outside the working tree are cut to their names, and tokens and host names removed, whenever a record is made
    or read; in `recipe`, whose texts a repetition trains on, tokens and the paths of models, files and folders alone;
    see `hf_distill.hub.redaction`. Metrics must be finite: `finite_metrics` leaves the others out.

    `recipe` is the one that was run, with the defaults filled in; None for what a trainer did without one. `origins`
    are the models and files that it names, by their keys in it (`teacher.model`); of a trainer the model that its
    student was loaded from, as `student.model`. `texts` are the numbers of texts that the teacher wrote, of those that
    were kept, and of those that fell to each filter. `exports` go by their files (`onnx/model.onnx`), `cuts` by the
    names of the stages that start with a student cut by importance.
    """

    file_name: ClassVar[str] = FILE_NAME

    schema_version: Literal[1] = SCHEMA
    command: Command = []
    teacher: ModelFacts | None = None
    other_teachers: list[ModelFacts] = []
    teacher_cache: CacheFacts | None = None
    student: ModelFacts
    cuts: dict[Text, CutFacts] = {}
    task: Text
    objectives: list[ObjectiveFacts] = []
    layer_maps: dict[Text, list[tuple[Count, Count]]] = {}
    recipe: PlainRecipe | None = None
    origins: dict[Name, Origin] = {}
    training_arguments: Facts = {}
    texts: dict[Text, Count] = {}
    data: DataFacts
    seeds: dict[Text, int] = {}
    versions: dict[Text, Text]
    hardware: Hardware
    steps: Count = 0
    epochs: FiniteFloat = 0.0
    metrics: Metrics = {}
    control_metrics: Metrics = {}
    teacher_metrics: Metrics = {}
    intervals: dict[Side, dict[str, Interval]] = {}
    speeds: dict[Side, Speed] = {}
    exports: dict[Text, Export] = {}
    emissions: Emissions | None = None

    @property
    def starts(self) -> list[Origin]:
        """The models that the student started from, stage by stage."""
        return [origin for key, origin in self.origins.items() if is_start(key)]

    @property
    def toolkit_version(self) -> str:
        """The version of hf_distill that made the run."""
        return self.versions.get("hf_distill", "unknown")

    def write(self, folder: str | Path) -> Path:
        """Write `distillation.json` into `folder`, whole or not at all. Raises `HubError` when the disk refuses."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
        return write_whole(Path(folder) / FILE_NAME, text + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Record:
        """Read `distillation.json` from `folder`, which may come from anybody.

        Raises:
            HubError: no such file, not a plain file, too large, not JSON, of a newer schema, or fields that are
                unknown, missing or of the wrong kind; the message names each of them.
        """
        path = Path(folder) / FILE_NAME
        content = _read_bounded(path)
        _check_schema(content, path)
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise HubError(f"{path} is not a valid record:\n{_problems(error)}") from error


class _Version(BaseModel):
    """The one field that is read of a record of another release."""

    model_config = ConfigDict(strict=True)

    schema_version: int


def _check_schema(content: bytes, path: Path) -> None:
    """Raises: `HubError` for a newer schema; whatever else is wrong with the content is found when it is validated."""
    try:
        found = _Version.model_validate_json(content).schema_version
    except ValidationError:
        return
    if found > SCHEMA:
        raise HubError(
            f"{path}: schema_version is {found}, and hf_distill {__version__} reads records up to {SCHEMA}; upgrade "
            "it: pip install --upgrade hf_distill."
        )


def _problems(error: ValidationError, limit: int = 20) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False)[:limit]:
        place = ".".join(str(part)[:60] for part in problem["loc"]) or "the file"
        given = "" if problem["type"] == "missing" else f" (found {redacted_text(str(problem['input'])[:200])[:60]!r})"
        lines.append(f"- {place}: {problem['msg']}{given}")
    if error.error_count() > limit:
        lines.append(f"- and {error.error_count() - limit} more")
    return "\n".join(lines)


def _read_bounded(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise HubError(f"{path} is not a plain file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise HubError(f"Cannot read {path}: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise HubError(f"{path} has {found.st_size} bytes; a record has at most {MAX_BYTES}.")
    return content


def write_whole(path: Path, text: str) -> Path:
    """As `hf_distill.writing.write_whole`, of a text. Raises: `HubError` where the disk does not take it."""
    try:
        writing.write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise HubError(f"Cannot write {path}: {error.strerror}. {_remedy(error)}, and do it again.") from error
    return path


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free space on that disk"
    return "Make its folder writable, or work in a copy that is"


def sha256_of(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_files(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Sums of the files in `folder` that match one of `patterns` (`config.json`, `?_Dense/*.json`), by their names
    from there on."""
    paths = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(paths)}


def finite_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers, as floats. What is left out is named in a warning."""
    numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
    finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
    if len(finite) < len(metrics):
        logger.warning("Not recorded, because not finite numbers: %s", ", ".join(sorted(set(metrics) - set(finite))))
    return finite


class Environment(NamedTuple):
    """What a record says of the software and the machine."""

    versions: dict[str, str]
    hardware: Hardware


def batch_size_facts(tokens_per_batch: int | None) -> Facts:
    """What the training arguments do not tell: that batches have a budget of tokens, and no number of rows."""
    if tokens_per_batch is None:
        return {}
    return {"tokens_per_batch": tokens_per_batch, "per_device_train_batch_size": None}


def environment() -> Environment:
    """Versions of Python and the installed libraries, and the machine that this process runs on."""
    versions = {"python": platform.python_version()}
    versions["hf_distill"] = __version__
    for package in PACKAGES:
        version = _version(package)
        if version:
            versions[package] = version
    hardware = Hardware(
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 0,
        accelerators=_accelerators(),
        threads=torch.get_num_threads(),
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )
    return Environment(versions, hardware)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _accelerators() -> list[str]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return []
    module = torch.get_device_module(accelerator)
    name_of = getattr(module, "get_device_name", lambda index: accelerator.type)
    return [str(name_of(index)) for index in range(torch.accelerator.device_count())]
