#!/usr/bin/env bash
# Starts the processes of one of several machines; run it on each of them, with the same arguments but MACHINE_RANK.
#
#   MACHINES=2 MACHINE_RANK=0 MAIN_ADDRESS=10.0.0.1 GPUS=8 \
#     scripts/launch/node.sh recipes/accelerate/ddp.yaml scripts/distill_glue.py --recipe recipe.yaml --output_dir out
#
# MACHINES      how many machines there are
# MACHINE_RANK  which one this is, counted from 0; number 0 is at MAIN_ADDRESS, port MAIN_PORT (29500)
# GPUS          GPUs, and so processes, of each machine
# The output folder lies on a disk that all machines share; the first process writes it.
set -euo pipefail

: "${MACHINES:?how many machines}" "${MACHINE_RANK:?the number of this machine, from 0}"
: "${MAIN_ADDRESS:?the address of machine 0}" "${GPUS:?GPUs of each machine}"
if [ "$#" -lt 2 ]; then
  echo "usage: node.sh CONFIG SCRIPT [ARGUMENTS …]" >&2
  exit 2
fi
if [ "$MACHINE_RANK" -ge "$MACHINES" ]; then
  echo "MACHINE_RANK is $MACHINE_RANK of $MACHINES machines; they count from 0." >&2
  exit 2
fi
config=$1
shift

exec accelerate launch --config_file "$config" \
  --num_machines "$MACHINES" --machine_rank "$MACHINE_RANK" --num_processes "$((MACHINES * GPUS))" \
  --main_process_ip "$MAIN_ADDRESS" --main_process_port "${MAIN_PORT:-29500}" "$@"
