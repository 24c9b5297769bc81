"""The one training step: any model, any task, any loss, any methods at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn.utils import parametrize
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from compress_exp.config.checks import UserError
from compress_exp.config.train import TrainConfig
from compress_exp.losses.base import Loss, Term
from compress_exp.losses.criteria import Criteria, means
from compress_exp.methods.base import Method
from compress_exp.methods.course import Course
from compress_exp.methods.rate import rate_factor
from compress_exp.models.forward import forward_outputs
from compress_exp.parallel import ranks, seeds
from compress_exp.training.rewinding import Rewinding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress_exp.tasks.base import Task

HISTORY_EVERY = 10


class CompressionModule(LightningModule):
    """A model in training, with the methods of its stage and, if a loss wants one, a frozen teacher.

    Args:
        model: prepared by the methods.
        task: says which positions count.
        losses: what is minimised, by name; they add up.
        methods: those of the stage, in order; none for a baseline.
        train: the budget.
        steps: optimiser steps of one round.
        seed: of everything random in training.
        teacher: kept out of checkpoints and of the optimiser.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        losses: Mapping[str, Loss],
        methods: Sequence[Method],
        train: TrainConfig,
        steps: int,
        seed: int,
        teacher: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        asked = any(loss.uses_teacher for loss in losses.values())
        if asked and teacher is None:
            names = ", ".join(name for name, loss in losses.items() if loss.uses_teacher)
            raise UserError(f"loss: {names} needs a teacher, and this stage has none")
        self.model = model.train()
        self.criteria = Criteria(losses, model, teacher if asked else None, seed)
        self.task, self.methods, self.budget = task, tuple(methods), train
        self.steps, self.seed = steps, seed
        self.course = next((method.course for method in methods if method.course != Course()), Course())
        self._rewinding = Rewinding(self.course, steps)
        self.history: list[dict[str, float]] = []
        self._teacher = [teacher.eval().requires_grad_(False)] if teacher is not None and asked else []

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all trainings."""
        return self.steps * self.course.trainings

    def progress(self, step: int) -> float:
        """The stage's progress after the step of that number, counted from 0; exactly 1 at the last."""
        return self.course.progress(step, self.steps)

    def on_fit_start(self) -> None:
        """Bring the teacher to the device (it is no submodule, so that no checkpoint holds it); methods look once."""
        for teacher in self._teacher:
            teacher.to(self.device)
        for method in self.methods:
            method.begin(self.model)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Student, teacher, loss; the step's random numbers depend on (seed, step, rank) alone."""
        torch.manual_seed(seeds.derived(self.seed, self.global_step, ranks.rank()))
        self._rewinding.keep(self.model, self.global_step)
        progress = self.progress(self.global_step)
        with parametrize.cached():
            student, labels = self._outputs(self.model, batch)
            teacher = self._ask_teacher(batch)
            terms = self.criteria(student, teacher, labels)
            for method in self.methods:
                penalty = method.penalty(self.model, method.own_progress(progress))
                if penalty is not None:
                    terms[f"penalty_{method.family}"] = penalty
        total = torch.stack(list(terms.values())).sum()
        if self.global_step % HISTORY_EVERY == 0 or self.global_step == self.total_steps - 1:
            self._note(ranks.mean_of({name: term.detach() for name, term in terms.items()} | {"loss": total.detach()}))
            self.history[-1] |= self._agreement(student["logits"].detach(), teacher)
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Methods see the gradients and move what they own."""
        progress = self.progress(self.global_step)
        with torch.no_grad():
            for method in self.methods:
                method.step(self.model, method.own_progress(progress))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; Lightning's own refuses fused optimizers under autocast, although bf16 needs no unscaling."""
        if self.budget.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.budget.gradient_clip)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Methods see the updated weights, before any checkpoint is written."""
        rate, done = float(optimizer.param_groups[0]["lr"]), self.global_step + 1
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            for method in self.methods:
                method.after_step(self.model, rate)
        self._rewinding.go_back(self.model, self.methods, optimizer, done)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and decay in every round; matrices decay, vectors do not."""
        own = [group for method in self.methods for group in method.parameter_groups(self.model)]
        taken = {id(parameter) for group in own for parameter in group["params"]}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in taken]
        groups = [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": self.budget.weight_decay},
            {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
            *own,
        ]
        optimizer = AdamW([group for group in groups if group["params"]], lr=self.budget.learning_rate, fused=True)
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step % self.steps, self.steps, self.budget.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Curves go on where they stopped, and rounds go back to the same weights."""
        checkpoint["history"] = self.history
        if self.course.rewind is not None:
            checkpoint["early"] = self._rewinding.early

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Curves go on where they stopped, and rounds go back to the same weights."""
        self.history = checkpoint["history"]
        self._rewinding.early = checkpoint.get("early", {})

    def finish(self) -> None:
        """When all steps are done: methods decide what is open, and the last row of the curves tells what came out."""
        with torch.no_grad():
            for method in self.methods:
                method.finish(self.model)
                if self.history:
                    self.history[-1] |= method.curves(self.model)

    def _outputs(self, model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[dict[str, Any], Tensor]:
        """What the losses need of a model, its logits at the positions that count, and the labels there."""
        outputs = forward_outputs(model, batch, {*self.task.outputs, *self.criteria.needs - {"logits"}})
        logits, labels = self.task.targets(outputs, batch)
        return outputs | {"logits": logits}, labels

    def _ask_teacher(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        if not self._teacher:
            return {}
        with torch.no_grad():
            return self._outputs(self._teacher[0], batch)[0]

    def _agreement(self, student: Tensor, teacher: Mapping[str, Any]) -> dict[str, float]:
        """The share of positions at which student and teacher say the same."""
        if "logits" not in teacher or student.shape[-1] == 1:
            return {}
        same = Term((student.argmax(-1) == teacher["logits"].argmax(-1)).float().sum(), len(student))
        return {name: float(value) for name, value in ranks.mean_of(means({"agreement": same})).items()}

    def _note(self, terms: dict[str, Tensor]) -> None:
        values = {name: float(term) for name, term in terms.items()}
        if not all(map(math.isfinite, values.values())):
            rate, wrong = self.budget.learning_rate, f"the loss is not finite at step {self.global_step}"
            if not self.global_step:
                cause = "look at the numbers in labels, and at the weights of the model and its teacher"
                raise UserError(f"train: {wrong}, before anything was learned; {cause}")
            raise UserError(f"train.learning_rate: {wrong}; lower it (now {rate:g})")
        row = {"step": float(self.global_step)} | values
        for method in self.methods:
            row |= method.curves(self.model)
        self.history.append(row)
