"""Overlays beside the adapters of peft: bits that change, time, memory, many users at once."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastweights.bench.base import Disagreement, Settings, Unit, load_text
from fastweights.bench.goals import Goal, goals_table
from fastweights.bench.timing import interleaved, using_threads
from fastweights.optim import Overlay, Overlays
from fastweights.report.section import Section, Table
from fastweights.training.config import ConfigError, nearest

__all__ = ["OverlayUse"]

RANK = 8
CYCLES = 10_000
PEER_CYCLES = 200  # merging and unmerging, which shows what it shows by then
USERS = 1000
PEER_USERS = 20  # adding an adapter takes peft longer the more there are
BATCH = 16
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_SIZES = {"width": 576, "inner": 1536, "layers": 4}  # of a model of 135 million weights, but layers
_MANY = {
    "switch": ("overlay", "peft", ""),
    "per-sample": ("together", "one by one", "alone"),
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Block(nn.Module):
    """A layer of a language model, without what has no weights to lay anything over."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (
            heads(h).unflatten(-1, (-1, 64)).transpose(1, 2)
            for heads in (self.q_proj, self.k_proj, self.v_proj)
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(h.transpose(1, 2).flatten(2))
        h = self.inner_norm(x)
        y: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return y


def _model(width: int, inner: int, layers: int, **where: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*(_Block(width, inner) for _ in range(layers)))
    return model.to(**where).eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class _Case:
    name: str
    weight: float
    measure: Callable[[Settings], dict[str, Any]]


class OverlayUse:
    """The benchmark."""

    name = "overlay"
    summary = "overlays beside peft's adapters: changed bits, forward passes, many users"

    def __init__(
        self, sizes: dict[str, int] = _SIZES, cycles: int = CYCLES, users: int = USERS
    ) -> None:
        cases = [
            *(
                _Case(f"cycles-{name}", 15.0, functools.partial(_cycles, dtype, cycles))
                for name, dtype in _DTYPES.items()
            ),
            *(
                _Case(
                    f"forward-{name}-{batch}x{tokens}",
                    5.0,
                    functools.partial(_forward, sizes, dtype, batch, tokens),
                )
                for (name, dtype), (batch, tokens) in itertools.product(
                    [("fp32", torch.float32), ("bf16", torch.bfloat16)],
                    [(1, 1), (1, 64), (8, 64)],
                )
            ),
            _Case("switch", 15.0, functools.partial(_switch, sizes, users)),
            *(
                _Case(f"per-sample-{tokens}", 5.0, functools.partial(_per_sample, sizes, tokens))
                for tokens in (1, 16)
            ),
        ]
        self._cases = {case.name: case for case in cases}

    def units(self, settings: Settings) -> Sequence[Unit]:
        if settings.compile or set(settings.peers) - {"peft"}:
            raise ConfigError("overlays are measured beside peft alone, where it is installed")
        for name in settings.cases:
            if name not in self._cases:
                raise ConfigError(f"unknown case {name!r}: {nearest(name, list(self._cases))}")
        chosen = [self._cases[name] for name in settings.cases or self._cases]

        def measure(case: _Case, threads: int) -> dict[str, Any]:
            with using_threads(threads), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the peer
                return {"peft": _peft_version(), **case.measure(settings)}

        return [
            Unit(
                key={"case": case.name, "threads": threads},
                weight=case.weight,
                measure=functools.partial(measure, case, threads),
            )
            for case in chosen
            for threads in (settings.threads[:1] if "cycles" in case.name else settings.threads)
        ]

    def section(self, report: dict[str, Any]) -> Section:
        return _section(report)


def _peft_version() -> str | None:
    if importlib.util.find_spec("peft") is None:
        return None
    import peft

    return str(peft.__version__)


# -- bits ----------------------------------------------------------------------------------------


def _cycles(dtype: torch.dtype, cycles: int, settings: Settings) -> dict[str, Any]:
    """Weights whose bits are others after cycles of attach, learn, fade and remove."""
    width = 64
    model = nn.Sequential(
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, width)
    ).to(settings.device, dtype)
    x = torch.randn(8, width, device=settings.device, dtype=dtype)
    before = _bits(model)
    for cycle in range(cycles):
        overlay = Overlay(model, rank=RANK, modules=nn.Linear, half_life=200, seed=cycle)
        optimizer = torch.optim.SGD(overlay.parameters(), lr=0.1)
        model(x).float().square().mean().backward()
        optimizer.step()
        overlay.relax(updates=50)
        overlay.remove()
        model.zero_grad()
    row = {
        "cycles": cycles,
        "values": sum(len(b) for b in before),
        "changed": _differ(model, before),
    }
    if _peft_version() is not None:
        row["peer_cycles"] = min(cycles, PEER_CYCLES)
        row["peer_changed"], row["peer_values"] = _merge_cycles(dtype, row["peer_cycles"], settings)
    return row


def _bits(model: nn.Module) -> list[Tensor]:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    tensors = (*model.parameters(), *model.buffers())
    return [t.detach().reshape(-1).view(kinds[t.element_size()]).clone() for t in tensors]


def _differ(model: nn.Module, before: Sequence[Tensor]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(_bits(model), before, strict=True))


def _merge_cycles(dtype: torch.dtype, cycles: int, settings: Settings) -> tuple[int, int]:
    """The same of an adapter that is merged into the weights and taken out again."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    model = model.to(settings.device, dtype)
    before = _bits(model)
    adapted = _adapted(model, ["0", "2"])
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.02)
    for _ in range(cycles):
        adapted.merge_adapter()
        adapted.unmerge_adapter()
    return _differ(adapted.unload(), before), sum(len(b) for b in before)


def _adapted(model: nn.Module, modules: Sequence[str]) -> Any:
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(modules))
    return peft.get_peft_model(model, config)


# -- time ----------------------------------------------------------------------------------------


def _forward(
    sizes: dict[str, int], dtype: torch.dtype, batch: int, tokens: int, settings: Settings
) -> dict[str, Any]:
    """Milliseconds of a forward pass: the model alone, with an overlay, with peft's adapter."""
    where: dict[str, Any] = {"device": settings.device, "dtype": dtype}
    model = _model(**sizes, **where)
    x = torch.randn(batch, tokens, sizes["width"], **where)
    ours = copy.deepcopy(model)
    overlay = Overlay(ours, rank=RANK, modules=_PROJECTIONS, half_life=200)
    _learn(overlay)
    calls: dict[str, Callable[[], object]] = {
        "alone": lambda: model(x),
        "overlay": lambda: ours(x),
    }
    if _peft_version() is not None:
        adapted = _as_adapter(overlay, copy.deepcopy(model))
        calls["peft"] = lambda: adapted(x)
        with torch.no_grad():
            error = (ours(x) - adapted(x)).float().norm() / adapted(x).float().norm()
        allowed = 1e-5 if dtype is torch.float32 else 3e-2
        if not error <= allowed:
            raise Disagreement(f"peft: outputs are off by {error:.2g}, allowed {allowed:g}")
    with torch.no_grad():
        times = interleaved(
            calls, rounds=settings.rounds, budget=settings.budget, device=settings.device
        )
    return {"milliseconds": times}


def _learn(overlay: Overlay, seed: int = 0) -> None:
    """Give the factors values of the size that learning gives them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in overlay.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p))


def _as_adapter(overlay: Overlay, model: nn.Module) -> Any:
    """The same product as an adapter of peft over another copy of the model."""
    import peft

    with tempfile.TemporaryDirectory(prefix="fastweights-") as folder:
        overlay.to_peft(folder)
        return peft.PeftModel.from_pretrained(model, folder).eval()


def _switch(sizes: dict[str, int], users: int, settings: Settings) -> dict[str, Any]:
    """Milliseconds to switch one of many overlays in, and the memory of one."""
    model = _model(**sizes, device=settings.device)
    names = [f"user {i}" for i in range(users)]
    for i, name in enumerate(names):
        Overlay(model, rank=RANK, modules=_PROJECTIONS[:3:2], half_life=200, name=name, seed=i)
    overlays = Overlays(model)
    overlays.use()
    turn = itertools.cycle(names[:: max(1, users // 97)])
    calls: dict[str, Callable[[], object]] = {"overlay": lambda: overlays.use(next(turn))}
    one = overlays[names[0]]
    model_bytes = sum(p.nbytes for p in model.parameters())
    row: dict[str, Any] = {
        "users": users,
        "overlay_bytes": sum(p.nbytes for p in one.parameters()),
        "model_bytes": model_bytes,
    }
    if _peft_version() is not None:
        import peft

        config = peft.LoraConfig(r=RANK, target_modules=list(_PROJECTIONS[:3:2]))
        adapted = peft.get_peft_model(_model(**sizes), config, adapter_name="user 0")
        for name in names[1:PEER_USERS]:
            adapted.add_adapter(name, config)
        theirs = itertools.cycle(names[:PEER_USERS])
        calls["peft"] = lambda: adapted.set_adapter(next(theirs))
        row["peer_users"] = min(users, PEER_USERS)
    row["milliseconds"] = interleaved(calls, rounds=settings.rounds, budget=settings.budget)
    return row


def _per_sample(sizes: dict[str, int], tokens: int, settings: Settings) -> dict[str, Any]:
    """Milliseconds for a batch in which each sample has its own overlay."""
    model = _model(**sizes, device=settings.device)
    names = [f"user {i}" for i in range(BATCH)]
    for i, name in enumerate(names):
        overlay = Overlay(model, rank=RANK, modules=_PROJECTIONS, half_life=200, name=name)
        _learn(overlay, i)
    overlays, beneath = Overlays(model), _model(**sizes, device=settings.device)
    x = torch.randn(BATCH, tokens, sizes["width"], device=settings.device)

    def together() -> Tensor:
        with overlays.per_sample(names):
            y: Tensor = model(x)
        return y

    def one_by_one() -> Tensor:
        parts = []
        for i, name in enumerate(names):
            overlays.use(name)
            parts.append(model(x[i : i + 1]))
        return torch.cat(parts)

    with torch.no_grad():
        off = (together() - one_by_one()).norm() / one_by_one().norm()
        if not off <= 1e-5:
            raise Disagreement(f"samples are off by {off:.2g} of one at a time, allowed 1e-5")
        times = interleaved(
            {"together": together, "one by one": one_by_one, "alone": lambda: beneath(x)},
            rounds=settings.rounds,
            budget=settings.budget,
            device=settings.device,
        )
    return {"batch": BATCH, "milliseconds": times}


# -- what to show --------------------------------------------------------------------------------


def _section(report: dict[str, Any]) -> Section:
    timed = [row for row in report["rows"] if "disagrees" not in row]
    bits = [
        [
            row["case"].removeprefix("cycles-"),
            f"{row['cycles']:,}",
            f"{row['changed']} of {row['values']:,}",
            *(
                (f"{row['peer_cycles']:,}", f"{row['peer_changed'] / row['peer_values']:.1%}")
                if "peer_cycles" in row
                else ("–", "–")
            ),
        ]
        for row in timed
        if "cycles" in row
    ]
    forward = [
        [
            row["case"].removeprefix("forward-"),
            str(row["threads"]),
            *_times(row, "alone", "overlay", "peft"),
            load_text(row),
        ]
        for row in timed
        if row["case"].startswith("forward")
    ]
    many = [
        [row["case"], str(row["threads"]), *_times(row, *names), load_text(row)]
        for row in timed
        for start, names in _MANY.items()
        if row["case"].startswith(start)
    ]
    return Section(
        title="Overlays",
        intro="",
        claims=[],
        tables=[
            goals_table(list(_goals(timed))),
            Table(
                caption="Weights and buffers whose bits changed: cycles of attach, learn, fade and "
                "remove; and of peft's merging and unmerging an adapter.",
                columns=("dtype", "cycles", "changed", "merge cycles", "changed by merging"),
                rows=bits,
            ),
            Table(
                caption="Milliseconds of a forward pass (batch × tokens, rank 8 at every linear "
                "layer): median and quartiles.",
                columns=("case", "threads", "model alone", "overlay", "peft, unmerged", "load"),
                rows=forward,
            ),
            Table(
                caption="Milliseconds to switch to another of a thousand overlays (peft: of "
                f"{PEER_USERS} adapters), and for a batch of {BATCH} samples of 1 or 16 tokens "
                "with an overlay each, together, one by one, and the batch in the model alone: "
                "median and quartiles.",
                columns=("case", "threads", "overlays", "beside", "model alone", "load"),
                rows=many,
            ),
        ],
        pictures=[],
    )


def _times(row: dict[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        t = row["milliseconds"].get(name)
        yield "–" if t is None else f"{t['median']:.3g} ({t['low']:.3g} to {t['high']:.3g})"


def _goals(timed: Sequence[dict[str, Any]]) -> Iterator[Goal]:
    for row in timed:
        case = f"{row['case']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        median = {k: t["median"] for k, t in row.get("milliseconds", {}).items()}
        if "cycles" in row:
            goal = f"bits changed by {row['cycles']:,} cycles"
            yield Goal(row["case"], goal, "0", str(row["changed"]), row["changed"] == 0)
        elif "peft" in median and "alone" in median:  # not where peft is absent
            times = median["overlay"] / median["peft"]
            goal = "forward, beside peft's unmerged adapter"
            yield Goal(case, goal, "≤ 1.0×", f"{times:.2f}×", times <= 1.0)
        elif row["case"] == "switch":
            share = row["overlay_bytes"] / row["model_bytes"]
            ms = median["overlay"]
            goal = f"switching to one of {row['users']:,} overlays"
            yield Goal(case, goal, "< 1 ms", f"{ms:.3f} ms", ms < 1)
            goal = "memory of an overlay, of the model's"
            yield Goal(case, goal, "≤ 1 %", f"{100 * share:.2f} %", share <= 0.01)
        elif "together" in median:
            times = median["one by one"] / median["together"]
            goal = f"a batch of {row['batch']}, beside a call per sample"
            yield Goal(case, goal, "≥ 5×", f"{times:.1f}×", times >= 5)
