"""Overlays trained by the trainers that people use, and exchanged with the real peft."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastweights import Overlay, Overlays
from tests.overlay_layers import learn, network

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all models are made here

# Libraries have warnings of their own, which are not what is tested here.
pytestmark = pytest.mark.filterwarnings("default")


def language_model() -> Any:
    """A tiny model of the kind that people adapt."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def gpt() -> Any:
    """One with the Conv1D of transformers."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=32, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )


def texts(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(32, (count, 10), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(before[k], now[k]) for k in before)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def loss_of(model: Any) -> float:
    data = texts()
    batch = {key: torch.stack([row[key] for row in data]) for key in data[0]}
    with torch.no_grad():
        return model(**batch).loss.item()


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trainer_of_transformers(tmp_path: Path, checkpointing: bool) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = language_model().requires_grad_(False)
    before, first = state_of(model), loss_of(model)
    overlay = Overlay(
        model, rank=4, modules=["q_proj", "v_proj", "down_proj", "lm_head"], half_life=100
    )
    optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.03)
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=100,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=texts(),
        optimizers=(optimizer, None),
    )
    fades = overlay._state._fades
    trainer.train()
    assert overlay._state._fades - fades == 100, "one fading for each update, not for each batch"
    model.eval()
    assert loss_of(model) < first - 0.1
    with overlay.off():
        assert loss_of(model) == first
    assert unchanged(model, before)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=2
    )
    model = network().requires_grad_(False)
    before = state_of(model)
    overlay = Overlay(model, rank=2, modules=nn.Linear, half_life=100)
    optimizer = torch.optim.AdamW(overlay.parameters(), lr=0.05)
    x, y = torch.randn(32, 6), torch.randn(32, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    fades = overlay._state._fades
    for _ in range(10):
        for inputs, targets in loader:
            with accelerator.accumulate(prepared):
                loss = (prepared(inputs) - targets).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    assert overlay._state._fades - fades == 20
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert unchanged(model, before)


@pytest.mark.slow
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Rehearsal(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network().requires_grad_(False)
            self.overlay = Overlay(self.model, rank=2, modules=nn.Linear, half_life=100)
            self.losses: list[float] = []

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss = (self.model(batch[0]) - batch[1]).square().mean()
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.overlay.parameters(), lr=0.05)

    x, y = torch.randn(32, 6), torch.randn(32, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    module = Rehearsal()
    before = state_of(module.model)
    trainer = lightning.Trainer(
        max_epochs=10,
        accelerator="cpu",
        accumulate_grad_batches=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    fades = module.overlay._state._fades
    trainer.fit(module, loader)
    assert module.overlay._state._fades - fades == 20
    assert sum(module.losses[-4:]) < 0.9 * sum(module.losses[:4])
    assert unchanged(module.model, before)
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
    assert all(torch.equal(saved["state_dict"][f"model.{k}"], before[k]) for k in before)


# -- the models of transformers ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "modules"),
    [(language_model, ["q_proj", "v_proj", "embed_tokens"]), (gpt, ["c_attn", "c_fc", "wte"])],
)
def test_many_users_generate_at_once(build: Any, modules: list[str]) -> None:
    model = build().eval()
    for seed, name in enumerate(("ann", "bo", "cy")):
        learn(Overlay(model, rank=2, modules=modules, half_life="6h", name=name), seed=seed)
    overlays = Overlays(model)
    tokens = torch.arange(12).reshape(4, 3)
    names = ["bo", "ann", None, "bo"]

    def generate(tokens: Tensor) -> Tensor:
        return model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )

    overlays.use()
    with overlays.per_sample(names):
        together = generate(tokens)
    for i, name in enumerate(names):
        overlays.use(*([name] if name else []))
        alone = generate(tokens[i : i + 1])
        torch.testing.assert_close(together.logits[0][i], alone.logits[0][0], rtol=1e-3, atol=1e-4)
        assert torch.equal(together.sequences[i], alone.sequences[0])


# -- peft ----------------------------------------------------------------------------------------


PEFT = {
    "llama": (language_model, ["q_proj", "v_proj", "down_proj"], torch.arange(12).reshape(2, 6)),
    "gpt": (gpt, ["c_attn", "c_proj"], torch.arange(12).reshape(2, 6)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, (1, 3))),
        ["0", "2"],
        torch.arange(150.0).reshape(2, 3, 5, 5) / 99,
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 5)),
        ["0", "1"],
        torch.arange(9),
    ),
}


def output(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    return out.logits if hasattr(out, "logits") else out


@pytest.mark.slow
@pytest.mark.parametrize("case", PEFT)
def test_what_peft_loads_of_ours_computes_the_same(case: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    build, modules, x = PEFT[case]
    model = build().eval()
    beneath = copy.deepcopy(model)
    overlay = Overlay(model, rank=3, modules=modules, half_life=9)
    learn(overlay)
    overlay.to_peft(tmp_path)
    theirs = peft.PeftModel.from_pretrained(beneath, str(tmp_path)).eval()
    assert not torch.allclose(output(model, x), output(build().eval(), x), atol=1e-3)
    torch.testing.assert_close(output(theirs, x), output(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "lora_alpha": 7}])
@pytest.mark.parametrize("case", PEFT)
def test_what_we_load_of_pefts_computes_the_same(
    case: str, options: dict[str, Any], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    build, modules, x = PEFT[case]
    model = build().eval()
    config = peft.LoraConfig(r=3, target_modules=modules, **{"lora_alpha": 6, **options})
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.3)
    theirs.save_pretrained(str(tmp_path))
    overlay = Overlay.from_peft(tmp_path, model, half_life="1d")
    assert overlay.rank == 3
    torch.testing.assert_close(output(model, x), output(theirs, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_overlay_over_a_model_with_an_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        language_model(), peft.LoraConfig(r=2, target_modules=["q_proj"])
    ).eval()
    x = torch.arange(12).reshape(2, 6)
    before = output(model, x)
    overlay = Overlay(model, rank=2, modules=["q_proj", "v_proj"], half_life=9)
    learn(overlay)
    assert not torch.allclose(output(model, x), before, atol=1e-3)
    overlay.remove()
    assert torch.equal(output(model, x), before)
