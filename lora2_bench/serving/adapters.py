"""Trained adapters in memory, up to a bound: read from a cell's folder on demand, the least recently used out first."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn

from lora2_bench.backbones.backbone import Backbone, MapKey
from lora2_bench.methods.base import at_rank
from lora2_bench.methods.lowrank.layers import AdaptedLinear
from lora2_bench.methods.lowrank.method import AdapterMethod
from lora2_bench.methods.vera import VeRA
from lora2_bench.records.store import WEIGHTS
from lora2_bench.runner.weights import check_parts, load_weights
from lora2_bench.serving.library import SERVED, Entry

_SKELETONS = 64  # kinds of adapter whose shapes are remembered
_Shapes = dict[str, torch.Size]


@dataclass(frozen=True)
class Update:
    """What an adapter adds to the output of one map: x down · diag(inner) · up · diag(outer), scales included.

    Attributes:
        down: (d_in×r), a view of rows of d_in numbers: so the narrow product is several times faster.
        up: (r×d_out), rows of d_out numbers.
        inner, outer: (r) and (d_out), VeRA's vectors; None for ones, both of them.
    """

    down: Tensor
    up: Tensor
    inner: Tensor | None = None
    outer: Tensor | None = None

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """Add it in place to out (rows×d_out), for x (rows×d_in)."""
        narrow = torch.mm(x, self.down)
        if self.inner is None or self.outer is None:
            out.addmm_(narrow, self.up)
        else:
            out.addcmul_(torch.mm(narrow * self.inner, self.up), self.outer)


@dataclass(frozen=True)
class Shared:
    """VeRA's frozen pair, one for all adapters that drew the same: A (r×widest d_in) and B (widest d_out×r)."""

    key: str
    A: Tensor
    B: Tensor

    @property
    def bytes(self) -> int:
        """Bytes of both."""
        return _bytes((self.A, self.B))


@dataclass(frozen=True)
class Adapter:
    """One cell's trained weights: the update of each map that has any rank left, and the head.

    Attributes:
        updates: (layer, map) -> update.
        head: name of a head's parameter -> value.
        bytes: that it holds alone.
        shared: what it holds together with others.
    """

    updates: Mapping[MapKey, Update]
    head: Mapping[str, Tensor]
    bytes: int
    shared: Shared | None = None


@dataclass(frozen=True)
class _Skeleton:
    """A method injected into the backbone's architecture without weights: it turns stored tensors into factors."""

    method: AdapterMethod[AdaptedLinear]
    shapes: _Shapes
    head: frozenset[str]


class AdapterStore:
    """Adapters by entry, at most `memory` bytes of them between two batches.

    Attributes:
        loads, hits, evictions: how often one came from disk, was there, and was let go.
    """

    def __init__(self, backbone: Backbone, memory: int, device: torch.device) -> None:
        self.memory = memory
        self.device = device
        self.loads = self.hits = self.evictions = 0
        self._backbone = backbone
        self._own = 0  # bytes that one adapter alone holds
        self._kept: OrderedDict[str, Adapter] = OrderedDict()
        self._shared: dict[str, tuple[Shared, int]] = {}  # with the number of adapters that hold it
        self._skeletons: OrderedDict[str, _Skeleton] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, entry: Entry) -> bool:
        return entry.id in self._kept

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept; a pair that adapters share counts once."""
        return self._own + sum(shared.bytes for shared, _ in self._shared.values())

    def get(self, entry: Entry) -> Adapter:
        """The entry's adapter, read from its folder where it is not kept.

        Raises UserError where the file is not as it was written; the others stay as they are.
        """
        if (known := self._kept.get(entry.id)) is not None:
            self._kept.move_to_end(entry.id)
            self.hits += 1
            return known
        adapter = self._read(entry)
        self.loads += 1
        self._kept[entry.id] = adapter
        self._own += adapter.bytes
        while self.bytes > self.memory and self._kept:
            self._let_go()
        return adapter

    def _let_go(self) -> None:
        _, adapter = self._kept.popitem(last=False)
        self.evictions += 1
        self._own -= adapter.bytes
        if adapter.shared is not None:
            shared, holders = self._shared.pop(adapter.shared.key)
            if holders > 1:
                self._shared[shared.key] = shared, holders - 1

    def _read(self, entry: Entry) -> Adapter:
        state = load_weights(entry.folder / WEIGHTS, entry.cell, f"cell {entry.cell}")
        skeleton = self._skeleton(entry)
        check_parts(state, skeleton.shapes, entry.folder / WEIGHTS, f"cell {entry.cell}")
        method = skeleton.method
        for name, tensor in state.items():
            _put(method.backbone.model, name, tensor.float())
        head = {name: state[name] for name in skeleton.head}
        with torch.no_grad(), at_rank(method, entry.rank):
            if isinstance(method, VeRA):
                return self._vera(method, head)
            pairs = ((key, layer.factors()) for key, layer in method.layers.items())
            factors = {key: pair for key, pair in pairs if len(pair[0])}
        tensors = [part for down, up in factors.values() for part in (down, up.t())]
        flat, parts = _packed([*tensors, *head.values()], self.device)
        both = zip(factors, parts[: len(tensors) : 2], parts[1 : len(tensors) : 2], strict=True)
        updates = {key: Update(down.t(), up) for key, down, up in both}
        return Adapter(updates, dict(zip(head, parts[len(tensors) :], strict=True)), _bytes((flat,)))

    def _vera(self, method: VeRA, head: Mapping[str, Tensor]) -> Adapter:
        shared = self._share(method.pair.A, method.pair.B)
        vectors = [part for layer in method.layers.values() for part in (layer.d.detach(), layer.b.detach())]
        flat, parts = _packed([*vectors, *head.values()], self.device)
        updates = {}
        both = zip(method.layers.items(), parts[: len(vectors) : 2], parts[1 : len(vectors) : 2], strict=True)
        for (key, layer), d, b in both:
            down, up = shared.A[:, : layer.base.in_features], shared.B[: layer.base.out_features]
            updates[key] = Update(down.t(), up.t(), d, b)
        return Adapter(updates, dict(zip(head, parts[len(vectors) :], strict=True)), _bytes((flat,)), shared)

    def _share(self, A: Tensor, B: Tensor) -> Shared:
        digest = hashlib.sha256()
        for part in (A, B):
            digest.update(f"{tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy().data)
        key = digest.hexdigest()
        shared, holders = self._shared.get(key) or (Shared(key, A.to(self.device), B.to(self.device)), 0)
        self._shared[key] = shared, holders + 1
        return shared

    def _skeleton(self, entry: Entry) -> _Skeleton:
        key = json.dumps([entry.outputs, entry.options], sort_keys=True)
        if key not in self._skeletons:
            self._skeletons[key] = self._injected(entry)
            if len(self._skeletons) > _SKELETONS:
                self._skeletons.popitem(last=False)
        self._skeletons.move_to_end(key)
        return self._skeletons[key]

    def _injected(self, entry: Entry) -> _Skeleton:
        module, _, name = SERVED[str(entry.options["name"])].rpartition(".")
        kind: type[AdapterMethod[AdaptedLinear]] = getattr(import_module(module), name)
        config = copy.deepcopy(self._backbone.model.config)
        config.num_labels = entry.outputs
        with torch.device("meta"):
            model = type(self._backbone.model)(config)
        method = kind(kind.parse(entry.options), total_steps=1)  # no step is taken
        method.inject(Backbone(model, None, self._backbone.name), torch.Generator().manual_seed(0))
        shapes = {name: tensor.shape for name, tensor in method.saved().items()}
        return _Skeleton(method, shapes, frozenset(method.backbone.head_parameters()))


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor into the place of a parameter or buffer, whatever device that is on."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


def _packed(tensors: list[Tensor], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """One flat tensor on `device` with all of these in it, and each as a view of it: one piece of memory an adapter."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(device)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return flat, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
