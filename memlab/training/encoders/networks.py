"""The networks of encoders: token ids (b, n) in, k directions (b, k, d) out. ``Encoder`` sets their lengths.

A network asks the frozen model for what it needs. The model's weights are no part of it.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import nn

from memlab.models import FrozenLM
from memlab.training.encoders.settings import EncoderError, Settings
from memlab.training.preconditioner import preconditioner_of


class Network(nn.Module):
    """Base class. A subclass takes (lm, settings) and defines ``forward(lm, ids, k)``."""

    last_layer = ""
    """Name of its last linear layer, whose output goes through ``out``."""
    change: torch.Tensor | None
    """(d, d): the output of the last layer is multiplied by it. It becomes part of that layer in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("change", None, persistent=False)

    def forward(self, lm: FrozenLM, ids: torch.Tensor, k: int) -> torch.Tensor:
        """Directions (b, k, d) float32 for texts ``ids`` (b, n). Their lengths do not count."""
        raise NotImplementedError

    def out(self, rows: torch.Tensor) -> torch.Tensor:
        """The last layer's output (..., d), in the model's coordinates."""
        return rows if self.change is None else rows @ self.change

    def whiten(self, lm: FrozenLM, power: float) -> None:
        """From now on the last layer works in coordinates whitened by this power of the model's preconditioner.

        A gradient step there is a step along the whitened gradient, as in per-sample search.
        """
        if power and self.last_layer:
            self.change = preconditioner_of(lm).whiten(torch.eye(lm.d), power)

    def merged(self) -> dict[str, torch.Tensor]:
        """The weights of the same function without ``change``."""
        weights = {name: tensor.detach() for name, tensor in self.state_dict().items()}
        if self.change is not None:
            for name in (f"{self.last_layer}.weight", f"{self.last_layer}.bias"):
                weights[name] = self.change.T @ weights[name]
        return weights


def segment_means(n: int, k: int) -> torch.Tensor:
    """(k, n): row j takes the mean of part j of k equal parts of n places. Parts overlap if k does not divide n.

    >>> segment_means(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    rows = torch.zeros(k, n)
    for j in range(k):
        first, last = j * n // k, max(j * n // k + 1, -(-(j + 1) * n // k))
        rows[j, first:last] = 1 / (last - first)
    return rows


class Slots(Network):
    """The default. The model's token embeddings, made narrower and marked by their place, pass two layers of
    bidirectional attention. Query j of k is the mean of part j of the text, changed by a learnt vector, and attends to
    all of it. So one network gives any number of vectors.

    A place marks a token twice: it scales its coordinates and is added to them. So a mean over places still tells
    which token stood where. The mean embedding of the part is added to the output: a text's bag of words is what an
    untrained network already says.
    """

    last_layer = "leave"

    def __init__(self, lm: FrozenLM, settings: Settings) -> None:
        super().__init__()
        d, width = lm.d, settings.width
        self.scale = 1 / lm.embedding_stats["std"]
        self.enter = nn.Linear(d, width)
        self.gate = nn.Parameter(torch.randn(settings.longest, width))
        self.place = nn.Parameter(0.5 * torch.randn(settings.longest, width))
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 3 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.slot = nn.Parameter(0.5 * torch.randn(2, width))
        """Added to the query of a vector that is alone, and to those of vectors that are not."""
        self.ask, self.answer, self.last = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.read = nn.MultiheadAttention(width, settings.reading_heads, dropout=0.0, batch_first=True)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.leave = nn.Linear(width, d)
        self.words = nn.Parameter(torch.ones(()))
        nn.init.normal_(self.leave.weight, std=0.05)
        branches = [(one.self_attn.out_proj, one.linear2) for one in self.layers.layers]
        with torch.no_grad():  # the layers begin near the identity, which learns much faster
            for layer in (*(linear for pair in branches for linear in pair), self.think[3]):
                layer.weight.mul_(0.1)

    def forward(self, lm: FrozenLM, ids: torch.Tensor, k: int) -> torch.Tensor:
        hidden, given = self.hidden(lm, ids, k)
        return self.out(self.leave(hidden)) + self.words * given

    def hidden(self, lm: FrozenLM, ids: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """((b, k, width) before the last layer, (b, k, d) mean embeddings of the parts)."""
        n = ids.shape[1]
        if n > len(self.place) or k > n:
            raise EncoderError(
                f"This encoder takes at most {len(self.place)} tokens, and gives at most one vector for each. "
                f"It was given {n}, and asked for {k}."
            )
        given = lm.embed(ids) * self.scale
        means = segment_means(n, k).to(given.device)
        states = self.layers(self.enter(given) * (1 + self.gate[:n]) + self.place[:n])
        query = means @ states + self.slot[min(k, 2) - 1]
        known = self.answer(states)
        query = query + self.read(self.ask(query), known, known, need_weights=False)[0]
        query = query + self.think(query)
        return self.last(query), means @ given


class Constant(Network):
    """The same k vectors for every text: what a soft prompt knows of the domain alone. The control."""

    def __init__(self, lm: FrozenLM, settings: Settings) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(settings.most, settings.most, lm.d))
        """Vector j of k, at [k - 1, j]."""

    def forward(self, lm: FrozenLM, ids: torch.Tensor, k: int) -> torch.Tensor:
        return self.table[k - 1, :k].expand(len(ids), k, -1)


class States(Network):
    """The frozen model reads ``sink prefix, text, k learnt slots``; a linear layer takes its last hidden states there.

    After SelfCP (arXiv 2405.17052) and UniICL (arXiv 2405.17062): only the slots and the linear layer are trained.
    """

    last_layer = "connect"

    def __init__(self, lm: FrozenLM, settings: Settings) -> None:
        super().__init__()
        self.slot = nn.Parameter(lm.embedding_stats["std"] * torch.randn(settings.most, lm.d))
        self.connect = nn.Linear(lm.d, lm.d)

    def forward(self, lm: FrozenLM, ids: torch.Tensor, k: int) -> torch.Tensor:
        sink = torch.tensor(lm.sink_prefix, dtype=torch.long).expand(len(ids), -1)
        text = lm.embed(torch.cat([sink, ids.cpu()], 1))
        fed = torch.cat([text, self.slot[:k].to(text.device).expand(len(ids), k, -1)], 1)
        with lm.lock:
            states = lm.model.base_model(inputs_embeds=fed, use_cache=False).last_hidden_state[:, -k:]
        return self.out(self.connect(nn.functional.normalize(states.float(), dim=-1) * lm.d**0.5))


NETWORKS = {
    "slots": "networks:Slots",
    "constant": "networks:Constant",
    "states": "networks:States",
    "bridge": "bridge:Bridge",
}
"""{name: ``module:class`` in this package}. A class takes (lm, settings)."""


def network_of(lm: FrozenLM, settings: Settings) -> Network:
    """A fresh network, the same for one seed. Raises ``EncoderError`` for a name that does not exist."""
    if settings.network not in NETWORKS:
        raise EncoderError(f"There is no network {settings.network!r}. Use one of: {', '.join(NETWORKS)}.")
    module, _, name = NETWORKS[settings.network].partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network: Network = getattr(import_module(f"{__package__}.{module}"), name)(lm, settings)
    network.whiten(lm, settings.whiten)
    return network
