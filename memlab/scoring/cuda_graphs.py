"""Training passes captured as CUDA graphs and replayed. With a small model, most of a pass is the launch of kernels.

A captured pass has a fixed shape: number of rows, positions per row, and vectors per row. The content of the rows may
change, so the same graph serves passages that grow, leave and enter. Unused rows are padding without scored tokens.
Tests compare losses and gradients with ``objective.Batch``. The vectors that training finds are always decoded, and
scored in float32, without graphs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import torch

from memlab.errors import MemlabError
from memlab.models import FrozenLM
from memlab.scoring.memory import free_bytes, out_of_memory

WORTH = {torch.bfloat16: 1 << 40, torch.float32: 1 << 38}
"""Largest positions x weights that are worth a capture. In a larger pass the work hides the launches."""
CAPTURE_AT = 3
"""A shape is captured when it is used for this time. Capture costs about three passes and the allocator's cache."""
MAX_GRAPHS = 8
"""Captured passes per model. The one that was not used for the longest time is dropped first."""
ROOM = 8
"""Capture a pass only if this many times its memory is free. Each graph has its own memory: when graphs shared memory,
trainings went wrong on a GPU that other programs had filled."""
CHECK_EVERY = 64
"""Replays between two comparisons with a pass without a graph."""
AGREE = {torch.bfloat16: 3e-2, torch.float32: 1e-3}
"""Largest relative difference allowed between a replayed pass and one without a graph."""
SWITCHES = ("MEMLAB_CUDA_GRAPHS", "MEMLAB_REPLAY")
"""Environment variables: 1 in either switches capture on. The second is the old name, still read in this version."""

Layout = Sequence[tuple[Sequence[int], int, int, np.ndarray, int]]
"""Per row: fixed ids (s,), position of its first vector, number of vectors, targets (n,), position whose logits predict
the first target."""


class CapturedPass:
    """A training pass of one shape. ``load`` fills its rows, ``run`` takes the vectors."""

    def __init__(self, lm: FrozenLM, rows: int, size: int, k: int, dtype: torch.dtype) -> None:
        self._lm, self._shape, self._dtype = lm, (rows, size), dtype
        device = lm.device
        self._ids = torch.zeros(rows, size, dtype=torch.long, device=device)
        self._fixed = lm.embed(self._ids)
        self._flat = torch.zeros(rows * k, lm.d, device=device)
        self._places = torch.arange(rows, device=device).mul(size).repeat_interleave(k)
        self._places += torch.arange(k, device=device).repeat(rows)
        self._default_places = self._places.clone()
        self._all_positions = torch.arange(rows * size, device=device)
        self._targets = torch.zeros(rows * size, dtype=torch.long, device=device)
        self._share = torch.zeros(rows, size, device=device)
        self._graph: Any = None
        self._outputs: tuple[torch.Tensor, torch.Tensor] | None = None
        """The tensors that the graph writes to."""
        self._runs = 0
        self.loaded_by: ReferenceType[Any] | None = None
        """The batch whose rows are loaded."""

    @torch.no_grad()
    def load(self, owner: object, layout: Layout) -> None:
        """Load the rows of ``owner``."""
        self.loaded_by = None  # until everything is loaded
        self._flat.zero_()
        rows, size = self._shape
        ids = torch.zeros(rows, size, dtype=torch.long)
        places, targets = self._default_places.cpu().clone(), torch.zeros(rows, size, dtype=torch.long)
        share = torch.zeros(rows, size)
        for i, (fixed, first, k, ids_scored, at) in enumerate(layout):
            ids[i, : len(fixed)] = torch.tensor(fixed)
            places[i * k : (i + 1) * k] = i * size + first + torch.arange(k)
            targets[i, at : at + len(ids_scored)] = torch.from_numpy(ids_scored.copy())
            share[i, at : at + len(ids_scored)] = 1 / len(ids_scored)
        self._ids.copy_(ids)
        self._fixed.copy_(self._lm.embed(self._ids))
        self._places.copy_(places)
        self._targets.copy_(targets.flatten())
        self._share.copy_(share)
        self.loaded_by = ref(owner)

    def work(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The pass without a graph: (loss, tokens right, smallest margin) (3, rows) and the gradient (vectors, d)."""
        with torch.enable_grad():
            flat = self._flat.detach().requires_grad_()
            embeddings = self._fixed.flatten(0, 1).index_copy(0, self._places, flat).view_as(self._fixed)
            nats, margins = self._lm.losses(embeddings, self._all_positions, self._targets, self._dtype)
            loss = (nats.view(self._shape) * self._share).sum(1)
            (gradient,) = torch.autograd.grad(loss.sum(), flat)
        scored, margins = self._share > 0, margins.view(self._shape)
        right = ((margins > 0) & scored).sum(1)
        return torch.stack([loss.detach(), right.float(), margins.masked_fill(~scored, torch.inf).amin(1)]), gradient

    def capture(self) -> bool:
        """Capture the kernels of ``work`` and the memory they need. False: the GPU has too little free memory."""
        with torch.cuda.device(self._lm.device), _capturing:
            current, side, debug_mode = torch.cuda.current_stream(), _stream(), torch.cuda.get_sync_debug_mode()
            torch.cuda.empty_cache()
            reserved = torch.cuda.memory_reserved()
            try:
                side.wait_stream(current)
                with torch.cuda.stream(side):
                    # A first pass without capture: libraries set up their state at the first call, which must not be
                    # captured. A pass that waits for the device fails here, where a failure has no other effect.
                    torch.cuda.set_sync_debug_mode("error")
                    self.work()
                    torch.cuda.set_sync_debug_mode(debug_mode)
                current.wait_stream(side)
                need = torch.cuda.memory_reserved() - reserved
                torch.cuda.empty_cache()
                if free_bytes(self._lm.device) < ROOM * need:
                    return False
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    self._outputs = self.work()
            finally:
                torch.cuda.set_sync_debug_mode(debug_mode)
                torch.cuda.set_stream(current)  # a failed capture leaves another stream
        self._graph = graph
        return True

    def run(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``work`` for (vectors, d), replayed if it was captured. The next call overwrites the result.

        The first replay, and every ``CHECK_EVERY``-th, is compared with a pass without a graph. Raises ``ReplayError``
        if they differ.
        """
        self._flat[: len(vectors)].copy_(vectors)
        if self._graph is None or self._outputs is None:
            return self.work()
        self._graph.replay()
        if self._runs % CHECK_EVERY == 0:
            self._compare(self.work(), self._outputs)
        self._runs += 1
        return self._outputs

    def _compare(self, eager_pass: tuple[torch.Tensor, ...], replayed: tuple[torch.Tensor, ...]) -> None:
        """Compare row by row. A row whose pass without a graph is not finite has diverged and is skipped."""
        rows = self._shape[0]
        loss, gradient = eager_pass[0][0], eager_pass[1].view(rows, -1)
        gradient_error = (replayed[1].view(rows, -1) - gradient).norm(dim=1) / gradient.norm(dim=1).clamp_min(1e-30)
        loss_error = (replayed[0][0] - loss).abs() / (loss.abs() + 0.1)
        compared = (self._share.sum(1) > 0) & torch.isfinite(loss) & torch.isfinite(gradient).all(1)
        limit = AGREE[self._dtype]
        agree = (gradient_error < limit) & (loss_error < limit)  # False for NaN
        if bool((compared & ~agree).any()):
            largest = float(torch.maximum(gradient_error, loss_error)[compared & ~agree].max())
            raise ReplayError(
                f"a replayed pass differs by {largest:.1e} (relative) from the same pass without a graph. "
                f"Unset {SWITCHES[0]}."
            )


class ReplayError(MemlabError, RuntimeError):
    """A replayed pass differs from the pass that was captured."""


_capturing = threading.Lock()
_streams: dict[int, Any] = {}


def _stream() -> Any:
    """One stream per GPU for all captures: libraries keep a workspace for every stream that they have seen."""
    return _streams.setdefault(torch.cuda.current_device(), torch.cuda.Stream())


class GraphCache:
    """The captured passes of one model, by shape. Decides when a shape is worth a capture."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[tuple[Any, ...], CapturedPass] = OrderedDict()
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self.broken = ""
        """Why capture was switched off. Empty while it is on."""
        self.replayed = 0
        """Number of replayed passes."""

    def run(
        self, lm: FrozenLM, owner: object, layout: Layout, vectors: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(3, rows) and the gradient (vectors, d), as ``CapturedPass.work``. None: not worth a capture, or not yet."""
        ks = {row[2] for row in layout}
        rows, size = _up(len(layout), 4), _up(max(len(row[0]) for row in layout), 8)
        size = min(size, lm.context) if lm.context else size
        shape = (rows, size, *ks, dtype)
        if self.broken or len(ks) > 1 or rows * size * lm.parameters > WORTH[dtype] or not lm.fused(size):
            return None
        self._seen[shape] += 1
        often = self._seen[shape] >= CAPTURE_AT
        if shape not in self._graphs and not (often and self._capture(lm, shape, owner, layout)):
            return None
        graph = self._graphs[shape]
        self._graphs.move_to_end(shape)
        try:
            if graph.loaded_by is None or graph.loaded_by() is not owner:
                graph.load(owner, layout)
            table, gradient = graph.run(vectors)
        except Exception as error:
            if not out_of_memory(error):
                self._give_up(lm, error)
            self.clear()
            return None
        self.replayed += 1
        return table[:, : len(layout)], gradient[: len(vectors)]

    def clear(self) -> bool:
        """Drop all captured passes and free their memory. Returns whether there were any."""
        had_some = bool(self._graphs)
        for shape in self._graphs:
            self._seen[shape] = -CHECK_EVERY
        self._graphs.clear()
        return had_some

    def _capture(self, lm: FrozenLM, shape: tuple[Any, ...], owner: object, layout: Layout) -> bool:
        self._seen[shape] = -CHECK_EVERY  # if the capture fails, or is dropped later: do not try again at once
        try:
            graph = CapturedPass(lm, *shape)
            graph.load(owner, layout)
            if not graph.capture():
                return False
        except Exception as error:  # for instance a family whose pass waits for the device, or too little memory
            self._give_up(lm, error)
            return False
        while len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
        self._graphs[shape] = graph
        return True

    def _give_up(self, lm: FrozenLM, error: Exception) -> None:
        """Run without graphs from now on."""
        self.broken = f"{type(error).__name__}: {error}"
        self.clear()
        warnings.warn(
            f"{lm.name}: passes are no longer replayed as CUDA graphs, and the last steps may be wrong "
            f"({self.broken[:200]}). Training continues without graphs.",
            stacklevel=2,
        )
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(lm.device)


_paused = ContextVar("memlab_cuda_graphs_paused", default=False)


def graph_cache_of(lm: FrozenLM) -> GraphCache | None:
    """The model's captured passes. None without a CUDA device, or if no variable of ``SWITCHES`` is 1."""
    if lm.device.type != "cuda" or _paused.get() or "1" not in map(os.environ.get, SWITCHES):
        return None
    lm.graph_cache = lm.graph_cache or GraphCache()
    return lm.graph_cache


def release_graphs(lm: FrozenLM) -> bool:
    """Free the memory of a model's captured passes. Returns whether there were any."""
    return bool(lm.graph_cache and lm.graph_cache.clear())


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Switch CUDA graphs off inside this context, for code that counts kernels or compares passes."""
    token = _paused.set(True)
    try:
        yield
    finally:
        _paused.reset(token)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
