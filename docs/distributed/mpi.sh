#!/bin/sh
# A training on the hosts of hosts.txt, with the launcher of Open MPI or MPICH. Only its
# starting of processes is used; gradients go through MXNet's parameter server.

RECIPE=${RECIPE:-recipe.json} # on a file system that all hosts share, like OUT
OUT=${OUT:-runs/mpi}

MASTER_ADDR=${MASTER_ADDR:-$(hostname)} # of rank 0: begin this script there
MASTER_PORT=${MASTER_PORT:-9400}
export MASTER_ADDR MASTER_PORT

# MPICH and Intel MPI hand all variables on; Open MPI needs -x for each.
exec mpirun -n "${RANKS:-4}" --hostfile "${HOSTS:-hosts.txt}" \
    -x MASTER_ADDR -x MASTER_PORT -x OMP_NUM_THREADS \
    gluon-compress launch --from-environment -- \
    run --recipe "$RECIPE" --out "$OUT" --resume --quiet
