#!/bin/bash
# One process for each GPU; JAX finds the others by Slurm's variables:
#     sbatch examples/cluster/slurm.sh
#SBATCH --job-name=jaxdescent-scale
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --time=00:30:00
set -euo pipefail
srun jaxdescent scale --distributed --problem dense --weak --rows 1e6 --features 8192 \
	--method cg,lsmr --output "scale-${SLURM_JOB_ID:?}.jsonl"
