#!/usr/bin/env bash
# A Slurm job over several machines: one task a machine, which starts a process for each of its GPUs.
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/launch/slurm.sh \
#     recipes/accelerate/ddp.yaml scripts/distill_glue.py --recipe recipe.yaml --output_dir out
#
# Submit it from the root of the repository, or set LAUNCH to the folder of node.sh. Slurm warns the processes by
# SIGTERM two minutes before it ends the job.
#SBATCH --job-name=distill
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

: "${SLURM_JOB_NODELIST:?run it by sbatch}" "${SLURM_NNODES:?run it by sbatch}"
: "${SLURM_GPUS_ON_NODE:?ask for GPUs, --gpus-per-node}"
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # not through `head`: it would end scontrol by SIGPIPE
export MAIN_ADDRESS=${HOSTS%%$'\n'*}
export MACHINES=$SLURM_NNODES GPUS=$SLURM_GPUS_ON_NODE
export MAIN_PORT=${MAIN_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
export LAUNCH=${LAUNCH:-$PWD/scripts/launch}

# SLURM_NODEID is known on the machine of a task, not here.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=1 bash -c 'MACHINE_RANK=$SLURM_NODEID exec bash "$LAUNCH/node.sh" "$@"' node "$@"
