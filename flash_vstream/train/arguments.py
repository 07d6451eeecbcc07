"""What a training run can be told, in three groups; every default stands here and nowhere else."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class ModelArguments:
    """Which checkpoint to start from and which parts of it to train."""

    model_path: str = field(metadata={"help": "checkpoint folder to start from"})
    memory_mode: str | None = field(default=None, metadata={"help": "another memory mode than the checkpoint's"})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2; None: what transformers takes by itself"}
    )
    train_projector: bool = True
    train_memory: bool = field(default=True, metadata={"help": "train the semantic attention of the memory"})
    train_language_model: bool = False
    train_vision_tower: bool = False


@dataclass
class DataArguments:
    """Where the records and what they show are found."""

    data_path: str = field(metadata={"help": "JSON list of records"})
    video_folder: str = field(metadata={"help": "folder that the records' video paths start from"})
    feature_folder: str | None = field(default=None, metadata={"help": "use features extracted into this folder"})
    conversation: str = field(default="v1", metadata={"help": "prompt style: plain (stage 1) or v1 (stage 2)"})
    video_fps: float = 1.0


@dataclass
class VStreamTrainingArguments(TrainingArguments):
    """The HF Trainer's arguments, and a learning rate of its own for projector and memory."""

    projector_learning_rate: float | None = field(
        default=None, metadata={"help": "of projector and memory; None: learning_rate"}
    )
    muon_learning_rate: float | None = field(
        default=None, metadata={"help": "train the matrices of projector and decoder layers by Muon, at this rate"}
    )
