"""The HF Trainer with the parameter groups of this model."""

from collections.abc import Iterator

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import get_parameter_names

from flash_vstream.train.arguments import VStreamTrainingArguments

PROJECTOR_PARTS = ("projector.", "memory.")


class VStreamTrainer(Trainer):
    """Projector and memory may have their own learning rate; norms and biases have no weight decay."""

    args: VStreamTrainingArguments

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        assert isinstance(self.model, PreTrainedModel)
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(list(self._parameter_groups(self.model)), **options)
        return self.optimizer

    def _parameter_groups(self, model: nn.Module) -> Iterator[dict[str, object]]:
        decayed = set(get_parameter_names(model, [nn.LayerNorm], ["bias", "norm"]))
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        for in_projector in (True, False):
            for decay in (True, False):
                chosen = [
                    parameter
                    for name, parameter in trained
                    if name.startswith(PROJECTOR_PARTS) == in_projector and (name in decayed) == decay
                ]
                rate = self.args.projector_learning_rate if in_projector else None
                if chosen:
                    yield {
                        "params": chosen,
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                        "lr": self.args.learning_rate if rate is None else rate,
                    }
