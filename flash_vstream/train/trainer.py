"""The HF Trainer with the parameter groups of this model."""

from collections.abc import Iterator

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import get_parameter_names

from flash_vstream.train.arguments import VStreamTrainingArguments
from flash_vstream.train.optimizer import Group, MuonWithAdamW

PROJECTOR_PARTS = ("projector.", "memory.")


class VStreamTrainer(Trainer):
    """Projector and memory may have their own learning rate; norms and biases have no weight decay."""

    args: VStreamTrainingArguments

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        assert isinstance(self.model, PreTrainedModel)
        if self.optimizer is None and self.args.muon_learning_rate is not None:
            self.optimizer = self._muon(self.model, self.args.muon_learning_rate)
        elif self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(list(self._parameter_groups(self.model)), **options)
        return self.optimizer

    def _muon(self, model: nn.Module, learning_rate: float) -> Optimizer:
        """Matrices of the decoder layers and the projector at `learning_rate` by Muon, the rest as ever by AdamW."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        matrices: list[Group] = []
        others: list[Group] = []
        for group in self._parameter_groups(model):
            for chosen, is_matrix in ((matrices, True), (others, False)):
                parameters = [p for p in group["params"] if _is_inner_matrix(names[p], p) == is_matrix]
                if parameters:
                    rate = {"lr": learning_rate} if is_matrix else {}
                    chosen.append({**group, "params": parameters, **rate})
        return MuonWithAdamW(matrices, others, (self.args.adam_beta1, self.args.adam_beta2))

    def _parameter_groups(self, model: nn.Module) -> Iterator[Group]:
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


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    is_inner = name.startswith("projector.") or (name.startswith("language_model.") and ".layers." in name)
    return parameter.ndim == 2 and is_inner
