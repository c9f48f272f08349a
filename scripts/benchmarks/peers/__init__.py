"""What a distillation step costs: hf_distill, a floor, hand-written code and other toolkits, measured in turns."""
