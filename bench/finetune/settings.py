"""What is trained and how: one setting a row of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Size:
    """A Llama over bytes, and its batches."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    batch: int
    context: int

    @property
    def tokens(self) -> int:
        return self.batch * self.context


SIZES = {
    "quick": Size(32, 48, 1, 2, 2, 16),
    "small": Size(384, 1024, 4, 6, 4, 128),
    "7b-slice": Size(4096, 11008, 2, 32, 4, 1024),  # two layers of Llama 2 7B, for a GPU
}


@dataclass(frozen=True)
class Setting:
    name: str
    method: str = "lora"  # or "oft", "oft exact", "boft", "hra"
    rank: int = 16  # or the size of a block, or the number of reflections
    targets: tuple[str, ...] = ALL_LINEAR
    dtype: str = "fp32"  # of the base; PEFT makes the adapters float32
    autocast: bool = False
    dropout: float = 0.0
    checkpointing: bool = False
    dora: bool = False
    compiled: bool = False  # also measured under torch.compile, which takes a minute a model on two cores
    at_least: float = 0.97  # times as fast as stock PEFT, the goal

    def to_dict(self) -> dict:
        return asdict(self)


SETTINGS = (
    Setting("fp32", compiled=True, at_least=1.1),
    Setting("fp32, q and v", targets=("q_proj", "v_proj")),
    Setting("fp32, rank 64", rank=64),
    Setting("fp32, dropout 0.1", dropout=0.1),
    Setting("fp32, checkpointing", checkpointing=True),
    Setting("fp32, DoRA", dora=True),
    Setting("bf16", dtype="bf16", compiled=True),
    Setting("bf16, dropout 0.1", dtype="bf16", dropout=0.1),
    Setting("bf16 autocast", autocast=True),
    Setting("OFT, fp32", method="oft"),
    Setting("OFT exact, fp32", method="oft exact"),
    Setting("OFT, bf16", method="oft", dtype="bf16"),
    Setting("BOFT, fp32", method="boft"),
    Setting("HRA, fp32", method="hra", rank=8),
    Setting("HRA, bf16", method="hra", rank=8, dtype="bf16"),
)
