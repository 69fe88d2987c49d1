"""The relational data influence model as one artefact: encoder, head, relation and label scale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from groupmates.artefacts.store import damaged, read_folder_json
from groupmates.maths.labels import LabelScale
from groupmates.maths.relation import Relation
from groupmates.maths.theta import rollout_theta
from groupmates.models.compiled import compile_layers
from groupmates.models.encoders import BATCH_TOKENS, ChunkEncoder, LmEncoder
from groupmates.models.language_model import device
from groupmates.progress import note
from groupmates.settings.config import Fit


def make_encoder(
    settings: Fit, lm_folder: Path, fitted: Path | None = None
) -> LmEncoder | ChunkEncoder:
    """`lm_folder` holds the probed language model; `fitted` another encoder that was trained on."""
    encoder = settings.encoder
    if encoder.name == "lm":
        return LmEncoder(lm_folder, encoder.embedding_size)
    folder = fitted or encoder.name
    made = ChunkEncoder(folder, encoder.chunk_tokens, encoder.chunks, encoder.pooling)
    made.check_positions(encoder.chunk_tokens, "fit.encoder.chunk_tokens")
    return made


class Uncopied:
    """An argument that torch's parallel modules hand on as it is.

    Of a list they look at every item at every call: over a second for 80,000 documents.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class InfluenceModel(nn.Module):
    """theta = factor(relation to the earlier documents) * (w . h + b), in label standard deviations."""

    def __init__(self, settings: Fit, encoder: LmEncoder | ChunkEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        self.dropout = nn.Dropout(settings.training.dropout)
        self.head = nn.Linear(encoder.size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))
        self.to(device())

    def individual(self, embeddings: torch.Tensor) -> torch.Tensor:
        """w . h + b of embeddings [..., D]."""
        return self.head(self.dropout(embeddings)).squeeze(-1)

    def forward(self, prepared: Any, rollouts_BT: np.ndarray) -> torch.Tensor:
        """theta [B, T] of rollouts of document rows; `prepared` may be `Uncopied`."""
        if isinstance(prepared, Uncopied):
            prepared = prepared.value
        unique, inverse = np.unique(rollouts_BT, return_inverse=True)
        embedded = self.encoder(prepared, unique)
        emb = embedded[torch.from_numpy(inverse.reshape(rollouts_BT.shape)).to(embedded.device)]
        relation = self.settings.relation
        return rollout_theta(
            self.individual(emb), emb, self.alpha, self.beta, relation.kernel, relation.sharpness
        )

    def relation(self) -> Relation:
        relation = self.settings.relation
        return Relation(relation.kernel, self.alpha.item(), self.beta.item(), relation.sharpness)

    @torch.no_grad()
    def score(
        self,
        texts: list[str],
        sequences: list[np.ndarray],
        batch_tokens: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Individual influence float32 [N] (standardised) and embeddings float32 [N, D]."""
        read = self.encoder.read(texts, sequences, advance)
        return self.score_read(read, batch_tokens, advance)

    @torch.no_grad()
    def score_read(
        self, read: Any, batch_tokens: int, advance: Callable[[int], object] = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `score`, of documents that `encoder.read` has tokenised."""
        self.eval()
        prepared = self.encoder.embed_read(read, batch_tokens, advance)
        embeddings = self.encoder(prepared, np.arange(len(read)))
        individual = self.individual(embeddings)
        return individual.cpu().numpy(), embeddings.cpu().numpy()

    def compile_layers(self, label: str, read: Any) -> None:
        """Compile the layers of a fine-tuned encoder for scoring, and try them on documents read."""
        if isinstance(self.encoder, LmEncoder):
            # Its layers' states are taken by hooks, which break the graph of each layer.
            note(label, "the layers of the encoder lm are not compiled")
            return

        def trial() -> list[np.ndarray]:
            return [self.score_read(read, BATCH_TOKENS)[1]]

        compile_layers(self.encoder.encoder, label, {"embeddings": trial}, dynamic=True)

    def save(self, folder: Path) -> None:
        """Weights and encoder; `relation_record` belongs beside them as relation.json."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict().items()
        weights = {n: t.contiguous().cpu() for n, t in state if "encoder.encoder." not in n}
        save_file(weights, folder / "model.safetensors")
        self.encoder.save(folder / "encoder")

    def relation_record(self, scale: LabelScale) -> dict[str, Any]:
        """What later stages read of the fitted model, beside its weights."""
        return vars(self.relation()) | {
            "head_bias": self.head.bias.item(),
            "label_mean_nats": scale.mean.tolist(),
            "label_std_nats": scale.std.tolist(),
            "fit": self.settings.model_dump(mode="json"),
        }

    @classmethod
    def load(cls, folder: Path) -> InfluenceModel:
        """The fitted model of a `fit` artefact, ready to score."""
        record = read_folder_json(folder, "fit", "relation.json")
        settings = Fit.model_validate(record["fit"])
        model = cls(settings, make_encoder(settings, folder / "encoder", folder / "encoder"))
        # A fine-tuned encoder's weights are in encoder/, all others here.
        result = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        absent = [n for n in result.missing_keys if not n.startswith("encoder.encoder.")]
        if absent or result.unexpected_keys:
            found = f"{absent} missing, {result.unexpected_keys} unknown"
            raise damaged(folder, "every weight of the influence model", found)
        return model.eval()
