"""How a `DistillationTrainer` evaluates what its student writes, as transformers' `Seq2SeqTrainer` does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Seq2SeqTrainer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.tasks import task_of
from hf_distill.teachers.generation import WRITING
from hf_distill.training.evaluating import Evaluating

LENGTHS = ("max_length", "max_new_tokens")


class Generating(Evaluating):
    """Overrides `evaluate`, `predict` and `prediction_step`: with `Seq2SeqTrainingArguments` whose
    `predict_with_generate` is set, predictions are the tokens that the student generates. They and the labels are
    padded with the padding token up to the length of the generation config, as by the `Seq2SeqTrainer`; rows that a
    sampler repeats to fill the last batch of several processes are left out.
    """

    _generation: Mapping[str, Any] = {}
    """What an evaluation was asked to generate with."""

    @property
    def _generates(self) -> bool:
        return bool(getattr(self.args, "predict_with_generate", False))

    def _take_generation(self) -> None:
        """Gives the student the generation config of the arguments, and checks that what is asked for can be had.

        Raises: `IncompatiblePair` for a student that writes nothing; `DistillationError` under FSDP, and for a
        generation config that is wrong or missing.
        """
        given = getattr(self.args, "generation_config", None)
        if given is not None:
            try:
                self.model.generation_config = Seq2SeqTrainer.load_generation_config(given)
            except (ValueError, OSError) as error:
                raise DistillationError(f"generation_config: {str(error).strip()}") from error
        if not self._generates:
            return
        task = task_of(self.model).name
        if task not in WRITING:
            raise IncompatiblePair(
                f"predict_with_generate is set, and the student is a {type(self.model).__name__}, whose task is "
                f"{task}; models of the tasks {' and '.join(WRITING)} generate."
            )
        if self.is_fsdp_enabled:
            raise DistillationError(
                "predict_with_generate does not go with FSDP here: the student alone is asked to generate, and its "
                "weights lie in shards. Generate after training, or use DDP."
            )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """The Trainer's evaluation; `gen_kwargs` are for `generate` and go before the arguments."""
        with self._generating_with(gen_kwargs):
            found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return found

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> Any:
        """The Trainer's prediction; `gen_kwargs` are for `generate` and go before the arguments."""
        with self._generating_with(gen_kwargs):
            return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    @contextmanager
    def _generating_with(self, given: Mapping[str, Any]) -> Iterator[None]:
        if given and not self._generates:
            raise DistillationError(
                f"{', '.join(given)}: given for generating, and nothing is generated; pass Seq2SeqTrainingArguments "
                "with predict_with_generate=True."
            )
        before = self._generation
        self._generation = {**before, **given}  # an evaluation of several data sets comes here for each of them
        try:
            yield
        finally:
            self._generation = before

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Tensor | None, Any, Any]:
        """As `Evaluating`'s; with `predict_with_generate` the generated tokens, and the labels, take the place of the
        outputs.
        """
        if not self._generates or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        settings = self._settings(gen_kwargs)
        generated = self._padded(self._generated(inputs, settings))
        labels = inputs.get("labels")
        loss = None if labels is None else super().prediction_step(model, inputs, True, ignore_keys)[0]
        if self.args.prediction_loss_only:
            return loss, None, None
        return loss, generated, None if labels is None else self._padded(labels)

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `generate` is called with: what was given, before what the arguments say."""
        found = {name: value for name, value in {**self._generation, **given}.items() if value is not None}
        longest, beams = self.args.generation_max_length, self.args.generation_num_beams
        if longest is not None and not any(name in found for name in LENGTHS):
            found["max_length"] = longest
        if beams is not None:
            found.setdefault("num_beams", beams)
        found.setdefault("synced_gpus", is_deepspeed_zero3_enabled())
        return found

    def _generated(self, inputs: Mapping[str, Any], settings: dict[str, Any]) -> Tensor:
        """What the student writes, `[rows, length]`. It is shown what it reads, and not what others read of the rows;
        of decoder inputs none that were made of the labels."""
        accepts = Anatomy.of(self.model).accepts
        labels, told = inputs.get("labels"), inputs.get("decoder_input_ids")
        if labels is not None and told is not None and labels.shape == told.shape:
            accepts -= {"decoder_input_ids", "decoder_attention_mask"}
        read = {name: value for name, value in inputs.items() if name in accepts}
        with torch.no_grad(), self.accelerator.autocast():
            found: Tensor = self.model.generate(**read, **settings)
        return found

    def _padded(self, tokens: Tensor) -> Tensor:
        """Tokens padded up to the length of the generation config, with its defaults where it is silent."""
        config: GenerationConfig = copy.deepcopy(self.model.generation_config)
        config.update(**config._get_default_generation_params(), defaults_only=True)
        length = int(config.max_length)
        if tokens.shape[-1] >= length and config.max_new_tokens is not None:
            length = config.max_new_tokens + 1
        missing = length - tokens.shape[-1]
        return tokens if missing <= 0 else nn.functional.pad(tokens, (0, missing), value=self._padding())

    def _padding(self) -> int:
        tokenizer, config = self.processing_class, self.model.config
        for owner, names in ((tokenizer, ("pad_token_id", "eos_token_id")), (config, ("pad_token_id",))):
            for name in names if owner is not None else ():
                found = getattr(owner, name, None)
                if found is not None:
                    return int(found)
        raise DistillationError(
            "predict_with_generate needs a padding token, and neither the tokenizer (processing_class) nor the "
            "model's config has one; set pad_token_id."
        )
