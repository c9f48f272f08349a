"""Makers of students."""

from hf_distill.students.distilbert import as_distilbert
from hf_distill.students.few_sample import recover
from hf_distill.students.grow import grow_labels
from hf_distill.students.layers import from_layers
from hf_distill.students.mobilebert import ib_bert, mobilebert
from hf_distill.students.quantized import gradient_norms, quantize_points, quantize_uniform
from hf_distill.students.shape import from_shape

__all__ = [
    "as_distilbert",
    "from_layers",
    "from_shape",
    "gradient_norms",
    "grow_labels",
    "ib_bert",
    "mobilebert",
    "quantize_points",
    "quantize_uniform",
    "recover",
]
