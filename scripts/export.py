"""Writes a trained classifier with its linear layers in 8 bits, or as an ONNX graph, and says what that cost on a GLUE
task.

    python scripts/export.py --model students/sst2 --task_name sst2 --output_dir students/sst2-int8
    python scripts/export.py --model students/sst2 --task_name sst2 --output_dir students/sst2-onnx --format onnx-int8

The export is loaded again and compared with the original; where the two differ too often, nothing is written. Also
`hf-distill export`; needs `pip install "hf_distill[quant]"`, for graphs `hf_distill[export]`. `--help` tells more.
"""

from __future__ import annotations

from hf_distill.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
