"""Between the PyTorch modules and the files that the engine reads.

Matrices, tables and convolutions are stored as F16, one-dimensional tensors (biases, batch norm) as F32. What is
measured and what the golden outputs come from is the model read back from these files, never the one in training.
"""

import json
import re
from pathlib import Path

from safetensors.torch import load_file, save_file

import draw
from data import MAX_TOKENS, MEAN, STD
from model import Model, config
from users import BEHAVIOUR_LENGTH


def save(model: Model, folder: Path) -> None:
    """Writes `config.json` and `model.safetensors`."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            tensors[name] = (tensor.half() if tensor.dim() > 1 else tensor.float()).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    text = json.dumps(config(draw.SIDE, MAX_TOKENS, BEHAVIOUR_LENGTH, MEAN, STD), indent=2)
    (folder / "config.json").write_text(_innermost_on_one_line(text) + "\n", encoding="utf-8")


def _innermost_on_one_line(text: str) -> str:
    """Indented JSON with every object or list that holds no other on one line."""
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda inner: re.sub(r"\s+", " ", inner[0]), text)


def load(folder: Path) -> Model:
    """The model that the files hold, upcast to f32, in evaluation mode."""
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    model = Model(
        vocabulary=len(tensors["text.weight"]),
        users=len(tensors["user.weight"]),
        behaviour=tensors["taste.weight"].shape[1],
        hidden=len(tensors["ranker.hidden.weight"]),
    )
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"{folder}: tensors missing or unexpected: {wrong}")
    return model.eval()
