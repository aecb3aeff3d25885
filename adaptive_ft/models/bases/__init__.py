"""The kinds of base models a run can start from, by transformers' `model_type`; a new one is a file and a line here."""

from adaptive_ft.models.bases.lxmert import LXMERT
from adaptive_ft.models.bases.options import Family
from adaptive_ft.models.bases.pictures import CHECKPOINTS_ONLY, VIT
from adaptive_ft.models.bases.vlbert import VL_BERT

BASES: dict[str, Family] = {
    "lxmert": LXMERT,
    "vl_bert": VL_BERT,
    "vit": VIT,
    "deit": CHECKPOINTS_ONLY,
    "dinov2": CHECKPOINTS_ONLY,
    "dinov2_with_registers": CHECKPOINTS_ONLY,
    "clip": CHECKPOINTS_ONLY,
}
DEFAULT = "lxmert"
