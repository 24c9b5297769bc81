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
from compress_exp.methods.context import Context, Work
from compress_exp.methods.course import Course
from compress_exp.methods.rate import rate_factor
from compress_exp.parallel import ranks, seeds
from compress_exp.training.recovery import rates
from compress_exp.training.rewinding import Rewinding
from compress_exp.training.teacher import Teacher, task_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HISTORY_EVERY = 10


class CompressionModule(LightningModule):
    """A model in training, with the methods of its stage and, if a loss wants one, a frozen teacher.

    Args:
        model: prepared by the methods.
        context: its task says which positions count, its steps are those of one round, its seed is that of everything
            random in training.
        losses: what is minimised, by name; they add up.
        methods: those of the stage, in order; none for a baseline.
        train: the budget.
        teacher: no part of checkpoints and of the optimiser.
        layer_decay: the share of the learning rate of a layer that the layer below learns with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        context: Context,
        losses: Mapping[str, Loss],
        methods: Sequence[Method],
        train: TrainConfig,
        teacher: Teacher | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        asked = any(loss.uses_teacher for loss in losses.values())
        if asked and teacher is None:
            names = ", ".join(name for name, loss in losses.items() if loss.uses_teacher)
            raise UserError(f"loss: {names} needs a teacher, and this stage has none")
        self.model = model.train()
        self.criteria = Criteria(losses, model, teacher.model if asked and teacher else None, context.seed)
        self.context, self.methods, self.budget = context, tuple(methods), train
        self.layer_decay = layer_decay
        self.course = next((method.course for method in methods if method.course != Course()), Course())
        self._rewinding = Rewinding(self.course, self.steps)
        self.history: list[dict[str, float]] = []
        self._teacher = teacher if asked else None

    @property
    def steps(self) -> int:
        """Optimiser steps of one training."""
        return self.context.steps

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all trainings."""
        return self.steps * self.course.trainings

    def progress(self, step: int) -> float:
        """The stage's progress after the step of that number, counted from 0; exactly 1 at the last."""
        return self.course.progress(step, self.steps)

    def work(self, method: Method, step: int, rate: float = 0.0) -> Work:
        """What a method's hook is given at the step of that number."""
        return Work(self.model, self.context, method.own_progress(self.progress(step)), step, rate)

    def on_fit_start(self) -> None:
        """Bring the teacher to the device (it is no submodule, so that no checkpoint holds it); methods look once."""
        if self._teacher is not None:
            self._teacher.to(self.device)
        for method in self.methods:
            method.begin(self.work(method, 0))

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """Student, teacher, loss; the step's random numbers depend on (seed, step, rank) alone."""
        torch.manual_seed(seeds.derived(self.context.seed, self.global_step, ranks.rank()))
        self._rewinding.keep(self.model, self.global_step)
        # In a cache of its own: within the student's, a call without gradients would take them from masked weights.
        with torch.no_grad(), parametrize.cached():
            for method in self.methods:
                batch = method.batch(self.work(method, self.global_step, self._rate), batch)
        with parametrize.cached():
            student, labels = task_outputs(self.model, self.context.task, batch, self.criteria.needs)
            teacher = self._ask_teacher(batch)
            terms = self.criteria(student, teacher, labels)
            for method in self.methods:
                penalty = method.penalty(self.work(method, self.global_step, self._rate))
                if penalty is not None:
                    terms[f"penalty_{method.family}"] = penalty
        total = torch.stack(list(terms.values())).sum()
        if self.global_step % HISTORY_EVERY == 0 or self.global_step == self.total_steps - 1:
            self._note(ranks.mean_of({name: term.detach() for name, term in terms.items()} | {"loss": total.detach()}))
            self.history[-1] |= self._agreement(student["logits"].detach(), teacher)
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Methods see the gradients and move what they own."""
        with torch.no_grad():
            for method in self.methods:
                method.step(self.work(method, self.global_step, self._rate))

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
        rate, step = self._rate, self.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            for method in self.methods:
                method.after_step(self.work(method, step, rate))
        self._rewinding.go_back(self.model, self.context, self.methods, optimizer, step + 1)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up and decay in every round; matrices decay, vectors do not."""
        own = [group for method in self.methods for group in method.parameter_groups(self.work(method, 0))]
        taken = {id(parameter) for group in own for parameter in group["params"]}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in taken]
        shares = rates(self.model, self.context.family, self.layer_decay) if self.layer_decay < 1 else {}
        groups: list[dict[str, Any]] = []
        for share in sorted({shares.get(id(p), 1.0) for p in rest}, reverse=True):
            here = [p for p in rest if shares.get(id(p), 1.0) == share]
            common = {"lr": share * self.budget.learning_rate}
            groups.append(
                {"params": [p for p in here if p.dim() > 1], "weight_decay": self.budget.weight_decay} | common
            )
            groups.append({"params": [p for p in here if p.dim() <= 1], "weight_decay": 0.0} | common)
        groups += own
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
                work = Work(self.model, self.context, step=self.total_steps)
                method.finish(work)
                if self.history:
                    self.history[-1] |= method.curves(work)

    def _ask_teacher(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        if self._teacher is None:
            return {}
        with torch.no_grad():
            return self._teacher.outputs(batch, self.criteria.needs)

    def _agreement(self, student: Tensor, teacher: Mapping[str, Any]) -> dict[str, float]:
        """The share of positions at which student and teacher say the same."""
        if "logits" not in teacher or student.shape[-1] == 1:
            return {}
        same = Term((student.argmax(-1) == teacher["logits"].argmax(-1)).float().sum(), len(student))
        return {name: float(value) for name, value in ranks.mean_of(means({"agreement": same})).items()}

    @property
    def _rate(self) -> float:
        """The learning rate of the present step."""
        step = self.global_step % self.steps
        return self.budget.learning_rate * rate_factor(step, self.steps, self.budget.warmup)

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
            row |= method.curves(self.work(method, self.global_step, self._rate))
        self.history.append(row)
