"""Training passes on a CUDA device, recorded once and replayed: of a small model a pass is mostly launches of kernels.

A *frame* is a pass of a fixed shape: so many rows, of so many positions, with so many vectors each. What its rows hold
may change, so passages that grow, leave and enter find the frame of their shape again; rows are filled up with others
that nothing is asked of. Losses and gradients are those of ``objective.Batch``, which they are tested against. What a
search finds is in any case decoded, and scored in float32, kernel by kernel.
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
"""Positions x weights up to which a pass is worth recording: in a larger one launches hide behind the work."""
CAPTURE_AT = 3
"""Which use of a shape is recorded: that costs some three passes, and the allocator's cache."""
FRAMES = 8
"""Kept a model; the one that was not used for the longest makes way."""
ROOM = 8
"""Times the memory of a pass that must be free for it to be recorded. A frame keeps memory of its own: when frames
shared it, trainings went wrong on a card that other programs had filled."""
CHECK_EVERY = 64
AGREE = {torch.bfloat16: 3e-2, torch.float32: 1e-3}
"""Largest relative difference between a replayed and a launched pass."""
SWITCH = "MEMLAB_REPLAY"
"""Set to 1, this environment variable switches recording on."""

Layout = Sequence[tuple[Sequence[int], int, int, np.ndarray, int]]
"""Per row: fixed ids (s,), where its vectors begin, how many, targets (n,), position whose logits say the first one."""


class CapturedPass:
    """One shape. ``load`` says what its rows hold, ``run`` takes vectors."""

    def __init__(self, lm: FrozenLM, rows: int, size: int, k: int, dtype: torch.dtype) -> None:
        self._lm, self._shape, self._dtype = lm, (rows, size), dtype
        device = lm.device
        self._ids = torch.zeros(rows, size, dtype=torch.long, device=device)
        self._fixed = lm.embed(self._ids)
        self._flat = torch.zeros(rows * k, lm.d, device=device)
        self._places = torch.arange(rows, device=device).mul(size).repeat_interleave(k)
        self._places += torch.arange(k, device=device).repeat(rows)
        self._free = self._places.clone()
        self._every = torch.arange(rows * size, device=device)
        self._targets = torch.zeros(rows * size, dtype=torch.long, device=device)
        self._share = torch.zeros(rows, size, device=device)
        self._graph: Any = None
        self._made: tuple[torch.Tensor, torch.Tensor] | None = None
        self._runs = 0
        self.holds: ReferenceType[Any] | None = None
        """Who loaded it last."""

    @torch.no_grad()
    def load(self, owner: object, layout: Layout) -> None:
        """Fill the rows."""
        self.holds = None  # until all of it is there
        self._flat.zero_()
        rows, size = self._shape
        ids = torch.zeros(rows, size, dtype=torch.long)
        places, targets = self._free.cpu().clone(), torch.zeros(rows, size, dtype=torch.long)
        share = torch.zeros(rows, size)
        for i, (fixed, first, k, said, at) in enumerate(layout):
            ids[i, : len(fixed)] = torch.tensor(fixed)
            places[i * k : (i + 1) * k] = i * size + first + torch.arange(k)
            targets[i, at : at + len(said)] = torch.from_numpy(said.copy())
            share[i, at : at + len(said)] = 1 / len(said)
        self._ids.copy_(ids)
        self._fixed.copy_(self._lm.embed(self._ids))
        self._places.copy_(places)
        self._targets.copy_(targets.flatten())
        self._share.copy_(share)
        self.holds = ref(owner)

    def work(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, tokens right, smallest lead) (3, rows) and the slope (vectors, d) of what is loaded."""
        with torch.enable_grad():
            flat = self._flat.detach().requires_grad_()
            embeddings = self._fixed.flatten(0, 1).index_copy(0, self._places, flat).view_as(self._fixed)
            nats, lead = self._lm.losses(embeddings, self._every, self._targets, self._dtype)
            loss = (nats.view(self._shape) * self._share).sum(1)
            (gradient,) = torch.autograd.grad(loss.sum(), flat)
        scored, lead = self._share > 0, lead.view(self._shape)
        right = ((lead > 0) & scored).sum(1)
        return torch.stack([loss.detach(), right.float(), lead.masked_fill(~scored, torch.inf).amin(1)]), gradient

    def capture(self) -> bool:
        """Record the kernels of ``work``, which keep what memory they need; False if the card has little left."""
        with torch.cuda.device(self._lm.device), _recording:
            before, side, watched = torch.cuda.current_stream(), _stream(), torch.cuda.get_sync_debug_mode()
            torch.cuda.empty_cache()
            held = torch.cuda.memory_reserved()
            try:
                side.wait_stream(before)
                with torch.cuda.stream(side):
                    # What libraries set up at their first call must not be recorded; and a pass that waits for the
                    # device fails here, where a failure leaves nothing behind.
                    torch.cuda.set_sync_debug_mode("error")
                    self.work()
                    torch.cuda.set_sync_debug_mode(watched)
                before.wait_stream(side)
                need = torch.cuda.memory_reserved() - held
                torch.cuda.empty_cache()
                if free_bytes(self._lm.device) < ROOM * need:
                    return False
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    self._made = self.work()
            finally:
                torch.cuda.set_sync_debug_mode(watched)
                torch.cuda.set_stream(before)  # a capture that fails leaves its own behind
        self._graph = graph
        return True

    def run(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``work`` for (vectors, d), replayed if it was recorded; read it before the next call.

        Now and then, the first time included, both are done; raises ``ReplayError`` where they differ.
        """
        self._flat[: len(vectors)].copy_(vectors)
        if self._graph is None or self._made is None:
            return self.work()
        self._graph.replay()
        if self._runs % CHECK_EVERY == 0:
            self._compare(self.work(), self._made)
        self._runs += 1
        return self._made

    def _compare(self, launched: tuple[torch.Tensor, ...], replayed: tuple[torch.Tensor, ...]) -> None:
        """Row by row; what launched is no number proves nothing."""
        rows = self._shape[0]
        loss, gradient = launched[0][0], launched[1].view(rows, -1)
        off = (replayed[1].view(rows, -1) - gradient).norm(dim=1) / gradient.norm(dim=1).clamp_min(1e-30)
        off_loss = (replayed[0][0] - loss).abs() / (loss.abs() + 0.1)
        asked = (self._share.sum(1) > 0) & torch.isfinite(loss) & torch.isfinite(gradient).all(1)
        agree = (off < AGREE[self._dtype]) & (off_loss < AGREE[self._dtype])  # False of what is no number
        if bool((asked & ~agree).any()):
            most = float(torch.maximum(off, off_loss)[asked & ~agree].max())
            raise ReplayError(f"a replayed pass is {most:.1e} off the same one launched kernel by kernel")


class ReplayError(MemlabError, RuntimeError):
    """A recorded pass no longer does what it was recorded from."""


_recording = threading.Lock()
_streams: dict[int, Any] = {}


def _stream() -> Any:
    """One a card for all recordings: libraries keep a workspace for each stream that they have seen."""
    return _streams.setdefault(torch.cuda.current_device(), torch.cuda.Stream())


class GraphCache:
    """The frames of one model, and when a shape is worth one."""

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[Any, ...], CapturedPass] = OrderedDict()
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self.broken = ""
        """Why nothing is recorded any more."""
        self.replayed = 0
        """Passes that were."""

    def run(
        self, lm: FrozenLM, owner: object, layout: Layout, vectors: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(3, rows) and the slope (vectors, d); None for a pass that is not worth recording, or not yet."""
        ks = {row[2] for row in layout}
        rows, size = _up(len(layout), 4), _up(max(len(row[0]) for row in layout), 8)
        size = min(size, lm.context) if lm.context else size
        shape = (rows, size, *ks, dtype)
        if self.broken or len(ks) > 1 or rows * size * lm.parameters > WORTH[dtype] or not lm.fused(size):
            return None
        self._seen[shape] += 1
        often = self._seen[shape] >= CAPTURE_AT
        if shape not in self._frames and not (often and self._make(lm, shape, owner, layout)):
            return None
        frame = self._frames[shape]
        self._frames.move_to_end(shape)
        try:
            if frame.holds is None or frame.holds() is not owner:
                frame.load(owner, layout)
            made, gradient = frame.run(vectors)
        except Exception as error:
            if not out_of_memory(error):
                self._give_up(lm, error)
            self.clear()
            return None
        self.replayed += 1
        return made[:, : len(layout)], gradient[: len(vectors)]

    def clear(self) -> bool:
        """Let go of all frames and of their memory; whether there were any."""
        some = bool(self._frames)
        for shape in self._frames:
            self._seen[shape] = -CHECK_EVERY
        self._frames.clear()
        return some

    def _make(self, lm: FrozenLM, shape: tuple[Any, ...], owner: object, layout: Layout) -> bool:
        self._seen[shape] = -CHECK_EVERY  # if it comes to nothing, or has to make way: not again at once
        try:
            frame = CapturedPass(lm, *shape)
            frame.load(owner, layout)
            if not frame.capture():
                return False
        except Exception as error:  # a family whose pass waits for the device, say, or a card that is full after all
            self._give_up(lm, error)
            return False
        while len(self._frames) >= FRAMES:
            self._frames.popitem(last=False)
        self._frames[shape] = frame
        return True

    def _give_up(self, lm: FrozenLM, error: Exception) -> None:
        """From now on passes run as they did before."""
        self.broken = f"{type(error).__name__}: {error}"
        self.clear()
        told = f"passes are not replayed any more, and the last steps may have gone astray ({self.broken[:200]})"
        warnings.warn(f"{lm.name}: {told}", stacklevel=2)
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(lm.device)


_paused = ContextVar("memlab_replay_paused", default=False)


def graph_cache_of(lm: FrozenLM) -> GraphCache | None:
    """The model's frames; None where there is nothing to record on, or nobody has asked for it."""
    if lm.device.type != "cuda" or os.environ.get(SWITCH) != "1" or _paused.get():
        return None
    lm.graph_cache = lm.graph_cache or GraphCache()
    return lm.graph_cache


def release_graphs(lm: FrozenLM) -> bool:
    """Give back the memory of a model's recorded passes; whether there were any."""
    return bool(lm.graph_cache and lm.graph_cache.clear())


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Passes launch their kernels one by one while this lasts: for who counts them, or compares."""
    token = _paused.set(True)
    try:
        yield
    finally:
        _paused.reset(token)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
